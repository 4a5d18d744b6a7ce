/**
 * Opens an image and reads its last 4 KiB, in a process of its own, and says what that took: `large-open.js FILE`.
 * One line of JSON: the bytes of the disk, their hexadecimal digits, bytes read by the kernel's count, and the most memory, KiB.
 */
import { readFileSync } from 'node:fs';
import { Disk } from '../../src/block/disk.js';
import { openChain } from '../../src/image/chain.js';
import { points } from '../../src/image/points.js';
import { Engine } from '../../src/native.js';

const counter = (file: string, name: string) =>
  Number(new RegExp(`^${name}:\\s*(\\d+)`, 'm').exec(readFileSync(file, 'latin1'))?.[1]);

const engine = new Engine({ cacheBytes: 2 ** 24, mapBytes: 2 ** 24, threads: 1 });
const before = counter('/proc/self/io', 'rchar');
const started = counter('/proc/self/status', 'VmHWM');
const chain = openChain(process.argv[2]!);
const disk = new Disk(engine, points(chain)[0]!.open());
const bytes = await disk.read(disk.size - 4096, 4096);
const read = counter('/proc/self/io', 'rchar') - before;
const grown = counter('/proc/self/status', 'VmHWM') - started;
console.log(JSON.stringify({ size: disk.size, hex: bytes.toString('hex'), read, grown }));
disk.close();
chain.close();
engine.close();
