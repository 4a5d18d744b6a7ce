/**
 * A disk with a volatile cache, served to QEMU by NBD (github.com/NetworkBlockDevice/nbd, doc/proto.md; simple replies) on a
 * Unix socket. A write stays in the cache until a flush; a power cut keeps a random part of what is in it, each unit of
 * `unit` bytes by itself, so that writes are lost, torn and reordered.
 *
 * One thread does one request after the other: what was answered before a flush came is what that flush makes sure of.
 */
import { once } from 'node:events';
import { createServer } from 'node:net';

const OPTION = { EXPORT_NAME: 1, ABORT: 2, INFO: 6, GO: 7 };
const REPLY = { ACK: 1, INFO: 3, UNSUPPORTED: 0x80000001 };
const COMMAND = { READ: 0, WRITE: 1, DISCONNECT: 2, FLUSH: 3 };
const FLAGS = 1 | 4; // they count, and there is a cache to flush
const EINVAL = 22;
/** Versions of a unit that a disk which never flushes remembers. */
const MEMORY = 8;

export class VolatileDisk {
  /** What is on stable storage. */
  bytes;
  /** Of one that lies a flush does nothing. */
  lies = false;
  /** Asked before each write and flush, and told which; where it says no, the request is not done and never answered. */
  gate = _flush => true;
  unit;
  #cache = new Map();
  #server;

  constructor(bytes, unit) {
    this.bytes = bytes;
    this.unit = unit;
  }

  /** Is there anything that a cut could take? */
  get dirty() {
    return this.#cache.size > 0;
  }

  async listen(path) {
    this.#server = createServer(socket => {
      socket.on('error', () => {}); // QEMU was killed
      this.#serve(reader(socket), socket).catch(error => {
        if (!(error instanceof Gone)) throw error;
      });
    });
    this.#server.listen(path);
    await once(this.#server, 'listening');
  }

  async close() {
    this.#server.close();
    await once(this.#server, 'close');
  }

  /** Keeps of each cached write what `keeps` says; how many units there were, and how many have lost something. */
  cut(keeps) {
    let lost = 0;
    for (const [unit, versions] of this.#cache) {
      const kept = versions.filter(keeps).at(-1);
      if (kept) kept.copy(this.bytes, unit * this.unit);
      if (kept !== versions.at(-1)) lost++;
    }
    const units = this.#cache.size;
    this.#cache.clear();
    return { units, lost };
  }

  #flush() {
    if (!this.lies) this.cut(() => true);
  }

  #read(offset, length) {
    const answer = Buffer.from(this.bytes.subarray(offset, offset + length));
    for (let unit = Math.floor(offset / this.unit); unit * this.unit < offset + length; unit++) {
      const cached = this.#cache.get(unit)?.at(-1);
      if (!cached) continue;
      const at = unit * this.unit - offset;
      cached.copy(answer, Math.max(0, at), Math.max(0, -at));
    }
    return answer;
  }

  #write(offset, data) {
    for (let at = offset; at < offset + data.length; ) {
      const unit = Math.floor(at / this.unit);
      const end = Math.min((unit + 1) * this.unit, offset + data.length);
      const whole = this.#read(unit * this.unit, this.unit);
      data.copy(whole, at - unit * this.unit, at - offset, end - offset);
      const versions = this.#cache.get(unit) ?? [];
      versions.push(whole);
      if (versions.length > MEMORY) versions.shift();
      this.#cache.set(unit, versions);
      at = end;
    }
  }

  async #serve(read, socket) {
    socket.write(Buffer.from('NBDMAGICIHAVEOPT\0\x03', 'latin1')); // fixed newstyle, no zeroes
    await read(4);
    if (!(await this.#negotiate(read, socket))) return;
    for (;;) {
      const request = await read(28);
      const command = request.readUInt16BE(6);
      const offset = Number(request.readBigUInt64BE(16));
      const length = request.readUInt32BE(24);
      const answer = (error, data = Buffer.alloc(0)) => {
        const head = Buffer.alloc(16);
        head.writeUInt32BE(0x67446698, 0);
        head.writeUInt32BE(error, 4);
        request.copy(head, 8, 8, 16);
        socket.write(Buffer.concat([head, data]));
      };
      if (command === COMMAND.DISCONNECT) {
        socket.end();
        return;
      }
      const data = command === COMMAND.WRITE ? await read(length) : undefined;
      const inside = offset + length <= this.bytes.length;
      if (command === COMMAND.READ && inside) answer(0, this.#read(offset, length));
      else if (command === COMMAND.WRITE && inside) {
        if (!this.gate(false)) continue;
        this.#write(offset, data);
        answer(0);
      } else if (command === COMMAND.FLUSH) {
        if (!this.gate(true)) continue;
        this.#flush();
        answer(0);
      } else answer(EINVAL);
    }
  }

  async #negotiate(read, socket) {
    for (;;) {
      const head = await read(16);
      const option = head.readUInt32BE(8);
      await read(head.readUInt32BE(12));
      const reply = (type, data = Buffer.alloc(0)) => {
        const bytes = Buffer.alloc(20);
        bytes.writeBigUInt64BE(0x3e889045565a9n, 0);
        bytes.writeUInt32BE(option, 8);
        bytes.writeUInt32BE(type, 12);
        bytes.writeUInt32BE(data.length, 16);
        socket.write(Buffer.concat([bytes, data]));
      };
      const about = Buffer.alloc(12); // NBD_INFO_EXPORT
      about.writeBigUInt64BE(BigInt(this.bytes.length), 2);
      about.writeUInt16BE(FLAGS, 10);
      if (option === OPTION.GO || option === OPTION.INFO) {
        reply(REPLY.INFO, about);
        reply(REPLY.ACK);
        if (option === OPTION.GO) return true;
      } else if (option === OPTION.EXPORT_NAME) {
        socket.write(about.subarray(2));
        return true;
      } else if (option === OPTION.ABORT) {
        reply(REPLY.ACK);
        socket.end();
        return false;
      } else reply(REPLY.UNSUPPORTED);
    }
  }
}

class Gone extends Error {}

/** Gives exactly as many bytes as are asked for; throws Gone where the other end has closed. */
function reader(socket) {
  const pieces = [];
  let there = 0;
  let ended = false;
  let wake = () => {};
  socket.on('data', piece => {
    pieces.push(piece);
    there += piece.length;
    wake();
  });
  socket.on('close', () => {
    ended = true;
    wake();
  });
  return async length => {
    while (there < length) {
      if (ended) throw new Gone();
      await new Promise(resolve => {
        wake = resolve;
      });
    }
    const all = pieces.length === 1 ? pieces[0] : Buffer.concat(pieces);
    pieces.length = 0;
    if (there > length) pieces.push(all.subarray(length));
    there -= length;
    return all.subarray(0, length);
  };
}
