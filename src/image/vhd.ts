/**
 * VHD, the disks of Virtual PC, Hyper-V before 2012, Azure and Xen: fixed, dynamic and differencing. vhd-header.ts reads
 * footer and header.
 *
 * A dynamic disk is a table of blocks, each behind a bitmap of its sectors. In a differencing disk a clear bit means the
 * parent's sector. In a dynamic one the bitmap says nothing that the data do not say: a sector that was never written
 * holds zeros, and not every writer keeps the bits, so that they are not asked there (QEMU does the same).
 */
import type { ImageFile } from '../block/file.js';
import { rawLayer } from '../block/raw-file.js';
import { checkRange, type Layer } from '../block/source.js';
import { AsofError } from '../errors.js';
import { ABSENT, BlockLayer, type BlockTable, examineBlocks, type Place, type SectorBits } from './blocks.js';
import { below, Entries, PART } from './entries.js';
import type { Image, ImageFormat, ParentLink } from './format.js';
import {
  bearsCookie,
  type DynamicHeader,
  dateOf,
  type Footer,
  KIND,
  parseDynamic,
  parseFooter,
  SECTOR,
} from './vhd-header.js';

const UNUSED = 0xffffffff;

export const vhd: ImageFormat = {
  name: 'vhd',
  aliases: ['vpc'],
  probe(file) {
    // Of a fixed disk the footer alone tells what it is: where that was cut off, the name is all that is left.
    if (!bearsCookie(file) && !/\.a?vhd$/i.test(file.path)) return 'no';
    try {
      parse(file);
      return 'yes';
    } catch (error) {
      if (error instanceof AsofError && error.code !== 'IO')
        return new AsofError(error.code, error.message, '--format raw, where it is a raw image', {
          cause: error,
        });
      throw error;
    }
  },
  open(file): Image {
    const { footer, header } = parse(file);
    const notes: string[] = [];
    const troubles = [...footer.troubles];
    if (footer.savedState) notes.push('the machine was saved while it ran: the disk is as of that moment');
    const layer = header
      ? new BlockLayer(tableOf(file, footer, header, troubles))
      : fixedLayer(file, footer, notes);
    return {
      file,
      format: 'vhd',
      size: footer.size,
      sectorSize: SECTOR,
      identity: { id: footer.id, time: dateOf(footer.time) },
      features: featuresOf(footer, header),
      layer,
      snapshots: [],
      parent: header && footer.kind === KIND.differencing ? parentOf(header) : undefined,
      dataFile: undefined,
      troubles,
      check: () => examineBlocks(file, layer, troubles, notes),
    };
  },
};

function parse(file: ImageFile): { footer: Footer; header: DynamicHeader | undefined } {
  const footer = parseFooter(file);
  const header = footer.kind === KIND.fixed ? undefined : parseDynamic(file, footer);
  if (footer.kind === KIND.differencing && header?.names.length === 0)
    throw new AsofError('IMAGE_CORRUPT', `${file.path}: it does not name its parent`);
  if (!header && footer.size > footer.end) {
    // Bytes are missing, and nothing says which.
    const what = `a fixed disk of ${footer.size} bytes has only ${footer.end} before its footer`;
    throw new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  }
  return { footer, header };
}

function featuresOf(footer: Footer, header: DynamicHeader | undefined): string[] {
  const kind = Object.entries(KIND).find(([, code]) => code === footer.kind)![0];
  return [
    `type=${kind}`,
    ...(header ? [`block-size=${header.blockSize}`] : []),
    `id=${footer.id}`,
    ...(header && footer.kind === KIND.differencing ? [`parent-id=${header.parentId}`] : []),
    ...(footer.creator ? [`creator=${footer.creator}`] : []),
    ...(footer.originalSize === footer.size ? [] : [`original-size=${footer.originalSize}`]),
    ...(footer.savedState ? ['saved-state'] : []),
  ];
}

/** The bytes before the footer, holes as zeros. */
function fixedLayer(file: ImageFile, footer: Footer, notes: string[]): Layer {
  const { size } = footer;
  if (footer.end > size) notes.push(`${footer.end - size} bytes before the footer are not part of the disk`);
  const bytes = rawLayer(file);
  return {
    size,
    extents(offset, length) {
      checkRange(size, offset, length);
      return bytes.extents(offset, length);
    },
    close() {},
  };
}

function parentOf(header: DynamicHeader): ParentLink {
  const [name, ...others] = header.names;
  return {
    name: name!,
    others,
    format: 'vhd',
    refuses: parent =>
      parent.identity?.id === header.parentId
        ? undefined
        : `its id is ${parent.identity?.id ?? 'none'}, that of the parent ${header.parentId}`,
    notes(parent) {
      const { parentTime } = header;
      const wanted = dateOf(parentTime).getTime();
      const found = [parent.identity?.time?.getTime(), parent.file.modified.getTime()];
      // Whole seconds, and of FAT two; a copy that kept no times is as good.
      if (parentTime === 0 || found.some(time => time !== undefined && Math.abs(time - wanted) <= 2000))
        return [];
      const words = dateOf(parentTime).toISOString();
      return [
        `it states ${words} as the time of its parent, which neither the parent's footer nor its file has`,
      ];
    },
  };
}

function tableOf(file: ImageFile, footer: Footer, header: DynamicHeader, troubles: string[]): BlockTable {
  const { blockSize, blocks, tableOffset } = header;
  const bitmapSize = Math.ceil(blockSize / SECTOR / 8 / SECTOR) * SECTOR;
  const span = (bitmapSize + blockSize) / SECTOR;
  const differencing = footer.kind === KIND.differencing;
  const needed = Math.ceil(footer.size / blockSize);
  if (needed > blocks) troubles.push(`its table has ${blocks} blocks, its disk ${needed}`);
  const taken: [string, number, number][] = [
    ['the copy of the footer', 0, SECTOR],
    ['the dynamic header', header.offset, header.offset + 1024],
    ['the block table', tableOffset, tableOffset + blocks * 4],
    ...header.locators.map(([at, length]): [string, number, number] => [
      'a name of the parent',
      at,
      at + length,
    ]),
  ];
  const entries = new Entries(file, 'big', tableOffset, Math.min(blocks, needed));
  return {
    file,
    size: footer.size,
    blockSize,
    end: footer.end,
    place(index): Place {
      const sector = entries.at(index);
      if (typeof sector === 'string') return { kind: 'bad', why: sector };
      if (sector === UNUSED) return ABSENT;
      const start = sector * SECTOR;
      const end = start + bitmapSize + blockSize;
      const other = taken.find(([, from, to]) => start < to && end > from);
      if (other) return { kind: 'bad', why: `the block lies within ${other[0]}` };
      if (start >= footer.end) return { kind: 'bad', why: 'the block lies beyond the end of the file' };
      return { kind: differencing ? 'mixed' : 'data', offset: start + bitmapSize };
    },
    firstUsed: (index, last) => entries.firstOther(index, last, UNUSED),
    bits(index): SectorBits | string {
      const at = (entries.at(index) as number) * SECTOR;
      let bitmap: Buffer;
      try {
        bitmap = file.read(at, bitmapSize);
      } catch (error) {
        if (error instanceof AsofError && error.code === 'IO') return error.message;
        throw error;
      }
      // The footer is no bitmap.
      if (at + bitmapSize > footer.end) return 'the bitmap of the block lies beyond the end of the file';
      return { sectorSize: SECTOR, isHere: sector => ((bitmap[sector >> 3]! << (sector & 7)) & 0x80) !== 0 };
    },
    claims: {
      span,
      of: index => entries.at(index) as number,
      *all() {
        const into = new Uint32Array(PART / 4);
        for (const part of entries.parts()) yield below(part, UNUSED, into);
      },
    },
  };
}
