/**
 * The mirror of a disk that boots is a disk that boots: the disk of a live volume is mirrored, a machine is started from the
 * mirror, and says on its serial line what lies in the disk. Then the disk changes under the volume, and with it the mirror.
 *
 * The disk is made here: a boot sector that has the BIOS read another sector and sends its text to the serial port, in an MBR
 * with a partition in it. The machine is QEMU's, without hardware acceleration, so that any host can run it.
 */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { noise } from '../image/peer.js';
import { attempt, missing, run } from '../peers.js';
import { asofJson } from './asof.js';
import { serve } from './mirror-daemon.js';
import { MIB, MirrorLab, poke, sha } from './mirror-lab.js';

t.setTimeout(240_000);

/** Where the text lies: in the middle of the disk. */
const TEXT_SECTOR = 20_001;

/** 16-bit code at 0x7c00; SeaBIOS leaves the number of the disk in DL. Intel SDM volume 2; BIOS int 13h, function 42h. */
function bootSector(): Buffer {
  const packet = 0x7c00 + 0x80;
  const code = Buffer.from(
    [
      [0xfa, 0xfc], // cli; cld
      [0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0], // xor ax,ax; mov ds,ax; mov es,ax; mov ss,ax
      [0xbc, 0x00, 0x7c], // mov sp,0x7c00
      [0xfb], // sti
      [0xbe, packet & 0xff, packet >> 8], // mov si,packet
      [0xb4, 0x42], // mov ah,0x42: extended read
      [0xcd, 0x13], // int 0x13
      [0xbe, 0x00, 0x80], // mov si,0x8000
      [0xac], // next: lodsb
      [0x84, 0xc0], // test al,al
      [0x74, 0x12], // jz done
      [0x88, 0xc3], // mov bl,al
      [0xba, 0xfd, 0x03], // mov dx,0x3fd: line status
      [0xec], // wait: in al,dx
      [0xa8, 0x20], // test al,0x20: may send
      [0x74, 0xfb], // jz wait
      [0xba, 0xf8, 0x03], // mov dx,0x3f8: data
      [0x88, 0xd8], // mov al,bl
      [0xee], // out dx,al
      [0xeb, 0xe9], // jmp next
      [0xb0, 0x10, 0xe6, 0xf4], // done: mov al,0x10; out 0xf4,al: isa-debug-exit
      [0xf4, 0xeb, 0xfd], // hlt; jmp to it
    ].flat(),
  );
  const sector = Buffer.alloc(512);
  code.copy(sector);
  // The packet: its size, one sector, to 0000:8000, from TEXT_SECTOR on.
  sector.set([0x10, 0, 1, 0, 0x00, 0x80, 0, 0], 0x80);
  sector.writeBigUInt64LE(BigInt(TEXT_SECTOR), 0x88);
  // One active partition.
  sector.set([0x80, 0, 0, 0, 0x83], 446);
  sector.writeUInt32LE(2048, 454);
  sector.writeUInt32LE(16_384, 458);
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}

function textSector(text: string): Buffer {
  const sector = Buffer.alloc(512);
  sector.write(text, 'latin1');
  return sector;
}

/** What a machine that is started from the disk says; nothing of it is written. */
async function boot(lab: MirrorLab, disk: string): Promise<string> {
  const serial = lab.path('serial');
  writeFileSync(serial, '');
  const { code } = await attempt('timeout', [
    '-k',
    '5',
    '120',
    'qemu-system-x86_64',
    ...['-accel', 'tcg', '-m', '64', '-nodefaults', '-display', 'none', '-no-reboot'],
    ...['-serial', `file:${serial}`, '-device', 'isa-debug-exit,iobase=0xf4,iosize=1'],
    ...['-drive', `file=${disk},format=raw,if=ide,snapshot=on`],
  ]);
  // isa-debug-exit ends QEMU with (value << 1) | 1; what it cannot boot waits for ever.
  return code === 0x21 ? readFileSync(serial, 'latin1') : `ended with ${code}`;
}

const PEERS = ['qemu-system-x86_64', 'mkfs.ext4', 'e2fsck', 'dd', 'timeout', 'losetup'];

t.test('it boots', { skip: missing(PEERS, ['root', 'fuse', 'loop']) }, async t => {
  const lab = new MirrorLab(t);
  const origin = lab.file('origin.img', Buffer.alloc(0));
  truncateSync(origin, 16 * MIB);
  const fs = lab.file('fs', Buffer.alloc(0));
  truncateSync(fs, 16_384 * 512);
  await run('mkfs.ext4', ['-q', '-F', fs]);
  poke(origin, 2048 * 512, readFileSync(fs));
  poke(origin, 0, bootSector());
  poke(origin, TEXT_SECTOR * 512, textSector('the first of two texts\n'));
  poke(origin, 12 * MIB, noise(1, 3 * MIB));
  t.equal(await boot(lab, origin), 'the first of two texts\n', 'the disk itself');

  const { mount } = await serve(t, lab);
  await asofJson('volume', 'add', 'vol', origin, '--state', lab.state);
  const live = join(mount, 'volumes/vol/live');
  const target = lab.path('mirror.img');
  const larger = await lab.device('larger', 24 * MIB);
  await lab.mirror('vol', target);
  await lab.mirror('vol', larger);
  t.equal(await boot(lab, target), 'the first of two texts\n');
  t.equal(await boot(lab, larger), 'the first of two texts\n', 'from a larger device');

  const text = lab.file('text', textSector('the second\n'));
  const at = [
    `if=${text}`,
    `of=${live}`,
    `seek=${TEXT_SECTOR}`,
    'bs=512',
    'conv=notrunc,fsync',
    'status=none',
  ];
  await run('dd', at);
  const second = await lab.mirror('vol', target);
  t.equal(second.differing, 65536, 'one cluster');
  t.equal(second.method, 'tracked', second.methodWhy);
  t.equal(await boot(lab, target), 'the second\n', 'and it boots what is there now');
  const part = readFileSync(target).subarray(2048 * 512, (2048 + 16_384) * 512);
  t.equal((await attempt('e2fsck', ['-fn', lab.file('part', part)])).code, 0);
  t.equal(sha(readFileSync(target)), sha(readFileSync(origin)));
});
