// Node's fetch and node:http as clients: one JSON call a line on stdin, one JSON reply a line on
// stdout. Bodies are base64.
import http from "node:http";
import readline from "node:readline";

const agent = new http.Agent({ keepAlive: true });

function* pieces(body) {
  for (let at = 0; at < body.length; at += 50_000) yield body.subarray(at, at + 50_000);
}

async function viaFetch(call) {
  const body = call.body === null ? undefined : Buffer.from(call.body, "base64");
  const response = await fetch(call.url, {
    method: call.method,
    headers: call.fields,
    body: call.chunked ? ReadableStream.from(pieces(body)) : body,
    duplex: "half",
    redirect: call.follow ? "follow" : "manual",
  });
  return {
    status: response.status,
    fields: Object.fromEntries(response.headers),
    content: Buffer.from(await response.arrayBuffer()).toString("base64"),
    continued: false,
  };
}

function viaHttp(call) {
  return new Promise((resolve, reject) => {
    const fields = { ...call.fields };
    const body = call.body === null ? null : Buffer.from(call.body, "base64");
    if (body !== null && !call.chunked) fields["Content-Length"] = body.length;
    if (call.expect) fields.Expect = "100-continue";
    const request = http.request(call.url, { method: call.method, headers: fields, agent });
    let continued = false;
    const send = () => {
      if (body !== null && call.chunked) for (const piece of pieces(body)) request.write(piece);
      else if (body !== null) request.write(body);
      request.end();
    };
    request.on("continue", () => {
      continued = true;
      send();
    });
    request.on("error", reject);
    request.on("response", async (response) => {
      try {
        const content = Buffer.concat(await response.toArray());
        resolve({
          status: response.statusCode,
          fields: response.headers,
          content: content.toString("base64"),
          continued,
        });
      } catch (error) {
        reject(error);
      }
    });
    if (call.expect) request.flushHeaders();
    else send();
  });
}

async function answer(call) {
  let reply;
  try {
    reply = await (call.client === "fetch" ? viaFetch : viaHttp)(call);
  } catch (error) {
    reply = { error: `${error.stack} ${error.cause?.stack ?? ""}` };
  }
  process.stdout.write(`${JSON.stringify({ ...reply, number: call.number })}\n`);
}

for await (const line of readline.createInterface({ input: process.stdin })) answer(JSON.parse(line));
