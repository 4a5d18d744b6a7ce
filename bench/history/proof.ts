/**
 * How fast a history is verified and a point restored: beside a plain read of as many bytes and the speed of SHA-256 on all
 * processors, which is what a verification cannot pass.
 */
import { spawn } from 'node:child_process';
import { rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type { Aim } from '../cow/aims.js';
import { temporaryFolder } from '../process.js';
import { ASOF } from '../servers.js';
import { figure, median, table } from '../table.js';
import { timed } from './timed.js';

const KINDS = ['none', 'zstd'] as const;
const DIGEST = `
  import { createHash } from 'node:crypto';
  const block = Buffer.alloc(65536, 7);
  let bytes = 0;
  const end = performance.now() + Number(process.argv[1]) * 1000;
  while (performance.now() < end) for (let i = 0; i < 64; i++, bytes += block.length) createHash('sha256').update(block).digest();
  console.log(bytes);`;

export async function proof(
  plan: { readonly volume: string; readonly size: number; readonly runs: number; readonly seconds: number },
  folder: string,
  say: (text: string) => void,
) {
  const { volume, size, runs, seconds } = plan;
  const own = temporaryFolder(folder, 'proof');
  const histories = KINDS.map(kind => join(own, kind));
  for (const [i, kind] of KINDS.entries()) {
    await timed([process.execPath, ASOF, 'backup', volume, '--to', histories[i]!, '--compress', kind]);
  }
  const rates = new Map<string, number[]>();
  const add = (name: string, rate: number) => rates.set(name, [...(rates.get(name) ?? []), rate]);
  const target = join(own, 'target');
  const measure = async (name: string, ...argv: string[]) => {
    rmSync(target, { force: true });
    const start = await timed([process.execPath, ASOF, '--version']);
    const { seconds: took } = await timed(argv);
    // What starting a command costs is not what a byte costs.
    const own = argv[0] === process.execPath ? start.seconds : 0;
    add(name, size / 1e6 / (took - own));
  };
  for (let round = 0; round < runs; round++) {
    say(`verify, restore, run ${round + 1} of ${runs}`);
    add('SHA-256, all cores', await digestRate(seconds));
    await measure('plain read', 'dd', `if=${volume}`, 'of=/dev/null', 'bs=1M', 'status=none');
    await measure('plain copy', 'dd', `if=${volume}`, `of=${target}`, 'bs=1M', 'status=none');
    for (const [i, kind] of KINDS.entries()) {
      const history = histories[i]!;
      await measure(`verify, ${kind}`, process.execPath, ASOF, 'verify', history);
      await measure(`restore, ${kind}`, process.execPath, ASOF, 'restore', history, target, '--no-verify');
      await measure(`restore, ${kind}, read back`, process.execPath, ASOF, 'restore', history, target);
    }
  }
  rmSync(own, { recursive: true });
  const of = (name: string) => median(rates.get(name) ?? [Number.NaN]);
  const rows = [...rates.keys()].map(name => [
    name,
    figure(of(name)),
    `${figure(of(name) / of('plain read'))}×`,
    `${figure(of(name) / of('SHA-256, all cores'))}×`,
  ]);
  const aim: Aim = {
    aim: 'verify: rate to that of SHA-256 on all cores',
    reached: of('verify, none') / of('SHA-256, all cores'),
    unit: '×',
    limit: 0.8,
    at: 'least',
    where: 'not packed; packed clusters are unpacked, too',
  };
  const head = ['of the disk', 'MB/s', 'to a plain read', 'to SHA-256, all cores'];
  return { table: table(head, rows), aims: [aim] };
}

/** MB/s of as many processes as there are processors. */
async function digestRate(seconds: number): Promise<number> {
  const one = () =>
    new Promise<number>((done, failed) => {
      const child = spawn(process.execPath, ['--input-type=module', '-e', DIGEST, String(seconds)]);
      let text = '';
      child.stdout.setEncoding('utf8').on('data', piece => {
        text += piece;
      });
      child.on('error', failed);
      child.on('close', () => done(Number(text)));
    });
  const bytes = await Promise.all(Array.from({ length: availableParallelism() }, one));
  return bytes.reduce((sum, more) => sum + more, 0) / seconds / 1e6;
}
