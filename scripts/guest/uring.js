/**
 * FUSE over io_uring, which this host's administrator may have switched off (/sys/module/fuse/parameters/enable_uring;
 * never ours to write): test/guest/uring.sh, on images of each kind that the session reads in another way.
 */
import { createHash, randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { run } from './kernel.js';
import { bootForTap } from './machine.js';
import { makeSystem } from './system.js';

export function test() {
  const system = makeSystem(root => makeImages(path.join(root, 'images')));
  return bootForTap({
    system,
    test: 'uring',
    memory: 1024,
    kernelArgs: ['fuse.enable_uring=1'],
    seconds: 600,
  });
}

/** Each with the digest of its content. */
function makeImages(folder) {
  fs.mkdirSync(folder, { recursive: true });
  const at = name => path.join(folder, name);
  const pieces = [];
  for (let i = 0; i < 128; i++) {
    pieces.push(
      i % 4 === 3
        ? Buffer.alloc(65536)
        : i % 4 === 2
          ? randomBytes(65536)
          : Buffer.alloc(65536, `piece ${i}\n`),
    );
  }
  const content = Buffer.concat(pieces);
  const digest = bytes => createHash('sha256').update(bytes).digest('hex');
  fs.writeFileSync(at('plain.raw'), content);
  const convert = (name, ...options) =>
    run('qemu-img', ['convert', '-q', '-O', 'qcow2', ...options, at('plain.raw'), at(name)]);
  convert('plain.qcow2');
  convert('zlib.qcow2', '-c');
  convert('zstd.qcow2', '-c', '-o', 'compression_type=zstd');
  for (const name of ['plain.raw', 'plain.qcow2', 'zlib.qcow2', 'zstd.qcow2']) {
    fs.writeFileSync(at(`${name}.sha256`), digest(content));
  }
  run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'zstd.qcow2', '-F', 'qcow2', at('overlay.qcow2')]);
  run('qemu-io', ['-c', 'write -P 0x5a 1000k 300k', at('overlay.qcow2')]);
  run('qemu-img', ['convert', '-q', '-O', 'raw', at('overlay.qcow2'), `${folder}.raw`]);
  fs.writeFileSync(at('overlay.qcow2.sha256'), digest(fs.readFileSync(`${folder}.raw`)));
  fs.rmSync(`${folder}.raw`);
  fs.copyFileSync(at('plain.qcow2'), at('short.qcow2'));
  fs.truncateSync(at('short.qcow2'), fs.statSync(at('short.qcow2')).size / 2);
  fs.writeFileSync(at('short.qcow2.sha256'), 'damaged');
}
