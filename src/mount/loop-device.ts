/**
 * Loop devices (loop(4)), read-only, with the partitions that we found and not those that the kernel would: it may have no
 * parser for the table, and knows no second header. They are known by the path of their file, for a number is anybody's
 * again as soon as a device is let go.
 */
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { list, text } from '../sysfs.js';
import { runTool } from './tool.js';

/** Milliseconds for a device to appear in /dev, or to be let go by who has just closed it. */
const PATIENCE = 5000;
const STEP = 20;

export interface LoopDevice {
  /** /dev/loop3. */
  readonly device: string;
  /** Its file, as the kernel has it. */
  readonly file: string;
}

/** The devices on files whose path `ours` accepts. */
export function loopsOn(ours: (path: string) => boolean): LoopDevice[] {
  return list('/sys/block')
    .filter(name => name.startsWith('loop'))
    .map(name => ({ device: `/dev/${name}`, file: text(`/sys/block/${name}/loop/backing_file`) }))
    .filter(({ file }) => file !== '' && ours(file));
}

/** A device on `file`. Throws MOUNT_FAILED. */
export async function openLoop(file: string, sectorSize: number): Promise<string> {
  const size = sectorSize === 512 ? [] : ['--sector-size', String(sectorSize)];
  // With LO_FLAGS_PARTSCAN alone a loop device may have partitions at all.
  const options = ['--read-only', '--partscan', '--find', '--show', ...size];
  return (await runTool('losetup', [...options, file])).trim();
}

export interface LoopPartition {
  readonly number: number;
  /** Bytes. */
  readonly start: number;
  readonly length: number;
}

/** The device of a partition, which is made unless the kernel has done so. Throws MOUNT_FAILED. */
export async function addPartition(
  device: string,
  { number, start, length }: LoopPartition,
): Promise<string> {
  const name = device.slice('/dev/'.length);
  const path = `${device}p${number}`;
  if (!existsSync(`/sys/block/${name}/${name}p${number}`)) {
    await runTool('addpart', [device, String(number), String(start / 512), String(Math.floor(length / 512))]);
  }
  const end = Date.now() + PATIENCE;
  while (!existsSync(path) && Date.now() < end) await sleep(STEP);
  return path;
}

/**
 * Lets go of a device that stands on `file`, and waits until it has, unless `lazy`. False where somebody still has it: it goes
 * with him.
 */
export async function closeLoop({ device, file }: LoopDevice, lazy: boolean): Promise<boolean> {
  const stands = () => loopsOn(path => path === file).some(one => one.device === device);
  const end = Date.now() + PATIENCE;
  let failure: unknown;
  while (stands()) {
    try {
      await runTool('losetup', ['--detach', device]);
    } catch (error) {
      failure = error;
    }
    if (!stands()) break;
    if (lazy || Date.now() >= end) {
      if (failure) throw failure;
      return false;
    }
    await sleep(STEP);
  }
  return true;
}
