// Echoes on a WebSocket with `ws`: ws_server.cjs PORT. It agrees to compression.
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  perMessageDeflate: true,
  maxPayload: 1 << 24,
});
server.on("connection", (socket) => {
  socket.on("message", (message, binary) => socket.send(message, { binary }));
});
