// A WebSocket for node (18 and 20 have none), after the browser's: what channelkit.js uses of it, over one TCP connection.
import { createHash, randomBytes } from "node:crypto";
import { connect } from "node:net";

const OPCODES = { text: 1, binary: 2, close: 8, ping: 9, pong: 10 };

export class WebSocket {
  readyState = 0;
  protocol = "";
  binaryType = "arraybuffer";
  onopen = null;
  onmessage = null;
  onclose = null;
  #input = Buffer.alloc(0);
  #parts = [];
  #kind = 0;
  #head = true;
  #close = { code: 1006, reason: "" };

  constructor(url, protocol) {
    const { hostname, port, pathname, search, host } = new URL(url);
    this.key = randomBytes(16).toString("base64");
    this.socket = connect({ host: hostname, port: Number(port) }, () => {
      const lines = [
        `GET ${pathname}${search} HTTP/1.1`, `Host: ${host}`, "Upgrade: websocket", "Connection: Upgrade",
        `Sec-WebSocket-Key: ${this.key}`, "Sec-WebSocket-Version: 13", `Sec-WebSocket-Protocol: ${protocol}`,
      ];
      this.socket.write(`${lines.join("\r\n")}\r\n\r\n`);
    });
    this.socket.setNoDelay(true);
    this.socket.on("data", (data) => this.#feed(data));
    this.socket.on("error", () => {});
    this.socket.on("close", () => {
      if (this.readyState === 3) return;
      this.readyState = 3;
      this.onclose?.(this.#close);
    });
  }

  send(data) {
    if (typeof data === "string") this.#write(OPCODES.text, Buffer.from(data));
    else this.#write(OPCODES.binary, Buffer.from(data));
  }

  close(code = 1000) {
    if (this.readyState === 0) this.socket.destroy();
    if (this.readyState !== 1) return;
    this.readyState = 2;
    this.#write(OPCODES.close, Buffer.from([code >> 8, code & 255]));
    this.socket.end();
    setTimeout(() => this.socket.destroy(), 1000).unref();
  }

  #write(opcode, payload) {
    const size = payload.length;
    const head = Buffer.alloc(size < 126 ? 2 : size < 65536 ? 4 : 10);
    head[0] = 128 | opcode;
    head[1] = 128 | (size < 126 ? size : size < 65536 ? 126 : 127);
    if (head.length === 4) head.writeUInt16BE(size, 2);
    if (head.length === 10) head.writeBigUInt64BE(BigInt(size), 2);
    const mask = randomBytes(4);
    this.socket.write(Buffer.concat([head, mask, payload.map((byte, at) => byte ^ mask[at & 3])]));
  }

  #feed(data) {
    this.#input = Buffer.concat([this.#input, data]);
    if (this.#head && !this.#handshake()) return;
    while (this.#frame());
  }

  #handshake() {
    const end = this.#input.indexOf("\r\n\r\n");
    if (end < 0) return false;
    const head = this.#input.subarray(0, end).toString("latin1");
    this.#input = this.#input.subarray(end + 4);
    const accept = createHash("sha1").update(`${this.key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
    if (!/^HTTP\/1\.1 101 /.test(head) || !head.includes(accept)) {
      this.socket.destroy();
      return false;
    }
    this.#head = false;
    this.readyState = 1;
    this.protocol = /^sec-websocket-protocol: *(\S+)/im.exec(head)?.[1] ?? "";
    this.onopen?.({});
    return true;
  }

  #frame() {
    const input = this.#input;
    if (input.length < 2) return false;
    let [at, size] = [2, input[1] & 127];
    if (input.length < at + (size === 127 ? 8 : size === 126 ? 2 : 0)) return false;
    if (size === 126) [at, size] = [4, input.readUInt16BE(2)];
    else if (size === 127) [at, size] = [10, Number(input.readBigUInt64BE(2))];
    if (input.length < at + size) return false;
    const payload = input.subarray(at, at + size);
    this.#input = input.subarray(at + size);
    this.#take(input[0] & 15, input[0] > 127, payload);
    return true;
  }

  #take(opcode, final, payload) {
    if (opcode === OPCODES.ping) this.#write(OPCODES.pong, payload);
    else if (opcode === OPCODES.close) {
      this.#close = payload.length > 1 ? { code: payload.readUInt16BE(0), reason: payload.subarray(2).toString() } : { code: 1005, reason: "" };
      this.close();
    } else if (opcode < 3) {
      this.#parts.push(payload);
      this.#kind = opcode || this.#kind;
      if (!final) return;
      const whole = Buffer.concat(this.#parts);
      this.#parts = [];
      const data = this.#kind === OPCODES.text ? whole.toString() : new Uint8Array(whole).buffer;
      if (this.readyState === 1) this.onmessage?.({ data });
    }
  }
}
