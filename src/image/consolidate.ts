/**
 * Takes points out of a history: one that nothing stands on is deleted, one that a single point stands on becomes one with
 * it. Points that stay keep their roots. What several points stand on stays until one is left.
 *
 * A merge adds what the upper image holds to the file of the lower one, at the cost of the upper alone; the steps, and what
 * each leaves when it is the last: docs/formats.md, "How two points become one". A merge that was killed is undone or
 * finished by the next run.
 */
import {
  closeSync,
  constants,
  existsSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { ImageFile } from '../block/file.js';
import { stack } from '../block/stack.js';
import { AsofError, errnoOf } from '../errors.js';
import { Engine, loadAddon } from '../native.js';
import { command } from '../shell.js';
import { syncFolder } from '../sync-folder.js';
import { spaceHint } from './backup-copy.js';
import { type Action, planConsolidation, type Stays } from './consolidate-plan.js';
import { History, type HistoryPoint } from './history.js';
import { HistoryFolder } from './history-folder.js';
import { MANIFEST_KIND, type Manifest } from './manifest.js';
import {
  isRenamed,
  MERGE_KIND,
  type MergeRecord,
  mergePath,
  mergeTemporary,
  readMerges,
} from './merge-record.js';
import { absorb, giveBack, headOf, undo } from './qcow2-absorb.js';
import { metadataDigest } from './qcow2-metadata.js';
import { CLUSTER } from './qcow2-writer.js';
import { writeSealed } from './sealed.js';
import { Tree, TreeFile } from './tree.js';
import { uniteTrees } from './tree-union.js';
import { holds, keepResult, resultsOf } from './verification.js';
import { digests, held, type VerifyOptions } from './verify.js';

export interface ConsolidateOptions {
  /** Ids of the points that are to go. */
  readonly choose: (history: History) => ReadonlySet<string>;
  /** Who has one of these files open, in words; undefined where nobody has. */
  readonly holder: (paths: readonly string[]) => Promise<string | undefined>;
  readonly done?: ((action: Action) => void) | undefined;
}

export interface Consolidated {
  readonly done: readonly Action[];
  readonly stays: readonly Stays[];
  /** Stems of points whose merge had been killed and was finished, or undone. */
  readonly recovered: readonly string[];
  /** Bytes that were copied. */
  readonly copied: number;
}

/**
 * Throws HISTORY_BUSY (with who reads it), HISTORY_DAMAGED, CONSOLIDATE_FAILED and what `choose` throws. Actions that were
 * done before it stay done; of the one that failed nothing is left.
 */
export async function consolidate(folder: string, options: ConsolidateOptions): Promise<Consolidated> {
  if (!existsSync(folder)) throw new AsofError('NOT_FOUND', `${folder} does not exist`);
  const place = new HistoryFolder(folder);
  const threads = availableParallelism();
  const imager = new (loadAddon().Imager)(threads, CLUSTER);
  let lock = -1;
  try {
    lock = openSync(place.path, constants.O_RDONLY | constants.O_DIRECTORY);
    if (!loadAddon().lockWhole(lock)) {
      const who = await options.holder([]);
      throw new AsofError(
        'HISTORY_BUSY',
        `${place.path} is being read${who ? ` by ${who}` : ''}: no point is taken away under a reader`,
        who ? 'end that first' : command`asof umount DIR, where it is mounted`,
      );
    }
    const run = new Consolidation(place, options, imager);
    return await run.run();
  } catch (error) {
    const errno = errnoOf(error);
    if (error instanceof AsofError || !errno) throw error;
    throw new AsofError('CONSOLIDATE_FAILED', `cannot change ${place.path}: ${errno}`, spaceHint(errno), {
      cause: error,
    });
  } finally {
    imager.close();
    if (lock >= 0) closeSync(lock);
    place.close();
  }
}

class Consolidation {
  readonly #place: HistoryFolder;
  readonly #path: string;
  readonly #options: ConsolidateOptions;
  readonly #imager: VerifyOptions['imager'];
  #copied = 0;

  constructor(place: HistoryFolder, options: ConsolidateOptions, imager: VerifyOptions['imager']) {
    this.#place = place;
    this.#path = place.path;
    this.#options = options;
    this.#imager = imager;
  }

  async run(): Promise<Consolidated> {
    const recovered: string[] = [];
    for (const record of readMerges(this.#path, readdirSync(this.#path))) {
      await this.#nobodyHas([record.stem, record.baseStem]);
      this.#recover(record);
      recovered.push(record.stem);
    }
    let history = new History(this.#path, { exclusive: true });
    try {
      const plan = planConsolidation(history.points, this.#options.choose(history));
      for (const action of plan.actions) {
        const { point, into } = action;
        await this.#nobodyHas(into ? [point.stem, into.stem] : [point.stem]);
        if (into) {
          await this.#merge(history, point.manifest.id, into.manifest.id);
        } else {
          this.#place.remove(point.manifest.id, point.stem);
        }
        this.#options.done?.(action);
        history.close();
        history = new History(this.#path, { exclusive: true });
      }
      history.keepCatalogue();
      return { done: plan.actions, stays: plan.stays, recovered, copied: this.#copied };
    } finally {
      history.close();
    }
  }

  async #nobodyHas(stems: readonly string[]): Promise<void> {
    const paths = stems.flatMap(stem => ['qcow2', 'tree'].map(end => join(this.#path, `${stem}.${end}`)));
    const who = await this.#options.holder(paths);
    if (who) throw new AsofError('HISTORY_BUSY', `${stems[0]} is in use by ${who}`, 'end that first');
  }

  async #merge(history: History, lowerId: string, upperId: string): Promise<void> {
    const lower = history.points.find(({ manifest }) => manifest.id === lowerId)!;
    const upper = history.points.find(({ manifest }) => manifest.id === upperId)!;
    // That both are what they should be is known before anything changes.
    history.chain(upper);
    history.image(lower);
    history.tree(upper).check();
    const layer = history.layer(upper);
    const clusters: number[] = [];
    for (const [first, end] of held(layer, layer.size, CLUSTER, kind => kind === 'absent')) {
      for (let cluster = first; cluster < end; cluster++) clusters.push(cluster);
    }
    this.#carryDefects(history, lower, upper);
    const image = join(this.#path, lower.manifest.image.file);
    const record: MergeRecord = {
      id: upperId,
      stem: upper.stem,
      base: lowerId,
      baseStem: lower.stem,
      head: headOf(image).toString('hex'),
      bytes: lower.manifest.image.bytes,
      manifest: null,
    };
    try {
      this.#write(record);
      const { more, copied, freed } = absorb(image, join(this.#path, upper.manifest.image.file));
      this.#copied += copied;
      const united = join(this.#path, `.asof-${upperId}.tree`);
      this.#unite(united, upper, lower);
      await this.#prove(history, image, united, lower, clusters);
      renameSync(united, join(this.#path, upper.manifest.tree.file));
      const proven = { ...record, manifest: merged(this.#path, lower.manifest, upper.manifest, more) };
      this.#write(proven);
      this.#finish(proven);
      try {
        giveBack(join(this.#path, upper.manifest.image.file), freed);
      } catch {
        // The space is found again by the next merge.
      }
    } catch (error) {
      this.#giveUp(upperId);
      throw error;
    }
  }

  #write(record: MergeRecord): void {
    const { id } = record;
    writeSealed(mergePath(this.#path, id), mergeTemporary(this.#path, id), MERGE_KIND, record);
  }

  #unite(path: string, upper: HistoryPoint, lower: HistoryPoint): void {
    const files: TreeFile[] = [];
    try {
      for (const { manifest } of [upper, lower])
        files.push(new TreeFile(join(this.#path, manifest.tree.file)));
      uniteTrees(path, files[0]!, files[1]!);
    } finally {
      for (const file of files) file.close();
    }
  }

  /** What was taken over is read back, and has the digests of the point. */
  async #prove(
    history: History,
    image: string,
    united: string,
    lower: HistoryPoint,
    clusters: readonly number[],
  ): Promise<void> {
    const files: TreeFile[] = [];
    const engine = new Engine({
      cacheBytes: 2 ** 20,
      mapBytes: 16 * 2 ** 20,
      threads: availableParallelism(),
    });
    const { qcow2 } = await import('./qcow2.js');
    const file = ImageFile.open(image);
    try {
      loadAddon().dropCache(file.fd);
      for (const path of [united, ...history.chain(lower).slice(1).map(treeOf(this.#path))]) {
        files.push(new TreeFile(path));
      }
      const tree = new Tree(files);
      tree.check();
      const { layer } = qcow2.open(file, {
        companion: () => {
          throw new AsofError('HISTORY_DAMAGED', `${image} names a data file`);
        },
      });
      const found: string[] = [];
      const source = { ...stack([layer], 512), size: tree.size, close() {} };
      const options = { engine, imager: this.#imager, parallel: availableParallelism() + 2 };
      await digests(source, clusters, tree, options, ({ offset, length, why }) => {
        found.push(`${length} bytes at ${offset}: ${why}`);
      });
      if (found.length > 0) {
        throw new AsofError(
          'HISTORY_DAMAGED',
          `${image} cannot be merged: ${found[0]}`,
          command`asof verify ${this.#path}`,
        );
      }
    } finally {
      file.close();
      engine.close();
      for (const one of files) one.close();
    }
  }

  /** Defects that were found in the lower image are in the file of the upper one from now on. */
  #carryDefects(history: History, lower: HistoryPoint, upper: HistoryPoint): void {
    const known = resultsOf(history, upper).flatMap(({ defects }) => defects);
    const defects = resultsOf(history, lower)
      .flatMap(result => result.defects)
      .filter(({ offset, length }) => !holds(history, upper, offset, length))
      .filter(({ offset }) => !known.some(one => one.offset === offset));
    if (defects.length === 0) return;
    const time = new Date().toISOString();
    const result = {
      time,
      depth: 'stored',
      sample: null,
      sound: false,
      bytes: 0,
      faults: [],
      defects,
    } as const;
    keepResult(history, upper, result);
  }

  /** Throws nothing: what stays is found by the next run. */
  #giveUp(id: string): void {
    try {
      const record = readMerges(this.#path, [`.asof-${id}.merge`])[0];
      if (record && record.manifest === null) this.#recover(record);
    } catch {
      // As after a kill.
    }
  }

  /** A merge that was killed: finished where it is proven, else undone. */
  #recover(record: MergeRecord): void {
    if (record.manifest !== null) {
      this.#finish({ ...record, manifest: record.manifest });
      return;
    }
    const image = join(this.#path, `${record.baseStem}.qcow2`);
    undo(image, Buffer.from(record.head, 'hex'), record.bytes);
    rmSync(join(this.#path, `.asof-${record.id}.tree`), { force: true });
    rmSync(mergePath(this.#path, record.id), { force: true });
    syncFolder(this.#path);
  }

  /** Every step may have been done before. */
  #finish(record: MergeRecord & { readonly manifest: Manifest }): void {
    const at = (name: string) => join(this.#path, name);
    if (!isRenamed(this.#path, record)) {
      renameSync(at(`${record.baseStem}.qcow2`), at(`${record.stem}.qcow2`));
      syncFolder(this.#path);
    }
    const temporary = mergeTemporary(this.#path, record.id);
    writeSealed(at(`${record.stem}.json`), temporary, MANIFEST_KIND, record.manifest);
    for (const end of ['json', 'tree', 'map', 'unused', 'verified']) {
      rmSync(at(`${record.baseStem}.${end}`), { force: true });
    }
    syncFolder(this.#path);
    rmSync(mergePath(this.#path, record.id), { force: true });
    syncFolder(this.#path);
  }
}

const treeOf =
  (folder: string) =>
  ({ manifest }: HistoryPoint): string =>
    join(folder, manifest.tree.file);

/** The manifest of the point above when the image below has become its own. */
function merged(
  folder: string,
  lower: Manifest,
  upper: Manifest,
  more: Pick<Manifest['image'], 'plain' | 'packed' | 'zero'>,
): Manifest {
  const file = ImageFile.open(join(folder, lower.image.file));
  try {
    const { image, base } = lower;
    return {
      ...upper,
      kind: base ? upper.kind : 'full',
      kindWhy: base ? upper.kindWhy : `it was ${upper.kind}; what it stood on was merged into it`,
      base: base && { ...base, choice: upper.base!.choice },
      image: {
        file: upper.image.file,
        bytes: file.size,
        compression: upper.image.compression === 'none' ? image.compression : upper.image.compression,
        plain: image.plain + more.plain,
        packed: image.packed + more.packed,
        zero: image.zero + more.zero,
        metadata: metadataDigest(file),
      },
      tree: { file: upper.tree.file, bytes: statSync(join(folder, upper.tree.file)).size },
    };
  } finally {
    file.close();
  }
}
