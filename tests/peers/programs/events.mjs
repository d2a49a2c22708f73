// Reads server-sent events with Node: events.mjs fetch|http URL. For each event a line on stdout
// with what it says and when it came, both in nanoseconds of the monotonic clock.
import http from "node:http";

const [kind, url] = process.argv.slice(2);
const body =
  kind === "fetch"
    ? (await fetch(url)).body
    : await new Promise((resolve, reject) => http.get(url, resolve).on("error", reject));
let text = "";
for await (const piece of body) {
  const now = process.hrtime.bigint();
  text += Buffer.from(piece).toString();
  let end;
  while ((end = text.indexOf("\n\n")) >= 0) {
    console.log(text.slice("data: ".length, end), `${now}`);
    text = text.slice(end + 2);
  }
}
