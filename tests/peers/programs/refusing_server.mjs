// Takes no upload: answers 413 before it has read the body, and closes, which resets the
// connection: refusing_server.mjs PORT.
import http from "node:http";

const server = http.createServer((request, response) => {
  response.writeHead(413, { Connection: "close" });
  response.end("too large");
});
server.listen(Number(process.argv[2]), "127.0.0.1");
