/** The writable views of a volume's snapshots: one of each at most, shown by the mount until it is hidden. */
import { Overlay } from '../block/overlay.js';
import { AsofError } from '../errors.js';
import type { Logger } from '../log.js';
import type { VolumeDefinition } from './definition.js';
import type { SnapshotDisk } from './provider.js';

export class Overlays {
  readonly #volume: Pick<VolumeDefinition, 'id' | 'name'>;
  readonly #folder: string;
  readonly #log: Logger;
  readonly #shown = new Map<string, Overlay>();

  /** `folder`: where layers lie that are thrown away. */
  constructor(volume: Pick<VolumeDefinition, 'id' | 'name'>, folder: string, log: Logger) {
    this.#volume = volume;
    this.#folder = folder;
    this.#log = log;
  }

  /** Of the snapshot `id`, where it has one. */
  get(id: string): Overlay | undefined {
    return this.#shown.get(id);
  }

  /**
   * Over the snapshot `id`, with its layer in the file `path`, or one that is thrown away at the drop or the stop. Throws
   * OVERLAY_UNUSABLE, and OVERLAY_IN_USE where there is one.
   */
  async add({ size, native }: SnapshotDisk, id: string, path: string | undefined): Promise<void> {
    if (this.#shown.has(id)) {
      throw new AsofError(
        'OVERLAY_IN_USE',
        `the snapshot ${id} has an overlay already`,
        `asof snapshot overlay ${id} --drop`,
      );
    }
    const identity = `snapshot ${id} of volume ${this.#volume.id}`;
    const label = `the snapshot ${id} of the volume ${this.#volume.name}`;
    const place = path === undefined ? { scratch: this.#folder } : { path };
    this.#shown.set(id, await Overlay.open({ size, native, identity, label }, place));
  }

  /** Takes it out of what is shown; the caller closes it, or gives it back. */
  hide(id: string): void {
    this.#shown.delete(id);
  }

  show(id: string, overlay: Overlay): void {
    this.#shown.set(id, overlay);
  }

  /** Throws OVERLAY_IN_USE where the snapshot has one: then it cannot be deleted. */
  refuse(id: string): void {
    if (!this.#shown.has(id)) return;
    throw new AsofError(
      'OVERLAY_IN_USE',
      `the snapshot ${id} of the volume ${this.#volume.name} has an overlay`,
      `asof snapshot overlay ${id} --drop, then delete it`,
    );
  }

  /** All of them. Never throws. */
  async close(): Promise<void> {
    for (const overlay of this.#shown.values()) {
      await overlay.close().catch(error => {
        this.#log.error({ volume: this.#volume.name, err: error }, 'an overlay is not whole in its layer');
      });
    }
    this.#shown.clear();
  }
}
