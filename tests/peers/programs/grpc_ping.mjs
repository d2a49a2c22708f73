// Fortio's gRPC ping, on Node's own HTTP/2: `serve` on an open descriptor, or `call` a URL.
import http2 from "node:http2";

const METHOD = "/fgrpc.PingServer/Ping";
const GRPC = { "content-type": "application/grpc" };
const [, , verb, place] = process.argv;

// A message of one length-delimited field, `payload` (3), behind gRPC's five bytes.
function framed(payload) {
  const message = Buffer.concat([Buffer.from([0x1a, payload.length]), Buffer.from(payload)]);
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

async function content(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces);
}

function serve() {
  const server = http2.createServer();
  server.on("stream", async (stream, headers) => {
    const known = headers[":path"] === METHOD && headers["content-type"].startsWith(GRPC["content-type"]);
    const asked = await content(stream);
    stream.respond({ ":status": 200, ...GRPC }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": known ? "0" : "12" }));
    stream.end(known ? asked : Buffer.alloc(0));
  });
  server.listen({ fd: Number(place) });
}

async function call() {
  const session = http2.connect(place);
  session.on("error", (error) => {
    console.error(error.message);
    process.exit(1);
  });
  const stream = session.request({ ":method": "POST", ":path": METHOD, te: "trailers", ...GRPC });
  let status = "none";
  stream.on("trailers", (trailers) => (status = trailers["grpc-status"]));
  const asked = framed("hello");
  stream.end(asked);
  const answer = await content(stream);
  session.close();
  console.log(`grpc-status ${status}, ${answer.equals(asked) ? "echoed" : "something else"}`);
}

if (verb === "serve") serve();
else await call();
