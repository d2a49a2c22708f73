// Sends messages of the sizes given, as text and as bytes, and wants each back: ws_client.cjs URL
// SIZE... Then a ping, and a close with a code that the server has to repeat.
const { once } = require("node:events");
const WebSocket = require("ws");

async function main(url, sizes) {
  const socket = new WebSocket(url, { perMessageDeflate: true, maxPayload: 1 << 24 });
  await once(socket, "open");
  for (const size of sizes.map(Number)) {
    const content = Buffer.alloc(size, "0123456789abcdef!");
    for (const message of [content, content.toString()]) {
      socket.send(message);
      const [echo, binary] = await once(socket, "message");
      if (binary !== Buffer.isBuffer(message)) throw new Error(`${size}: another kind`);
      if (!content.equals(echo)) throw new Error(`${size}: other content`);
    }
  }
  socket.ping("are you there");
  const [pong] = await once(socket, "pong");
  if (pong.toString() !== "are you there") throw new Error("another pong");
  socket.close(4321, "enough");
  const [code] = await once(socket, "close");
  if (code !== 4321) throw new Error(`closed with ${code}`);
}

main(process.argv[2], process.argv.slice(3)).catch((error) => {
  console.error(error);
  process.exit(1);
});
