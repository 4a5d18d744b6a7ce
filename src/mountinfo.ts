/** /proc/PID/mountinfo (proc_pid_mountinfo(5)), for the layers that read it. */

export interface MountEntry {
  /** Unique while it is mounted; reused later. */
  readonly id: number;
  readonly parent: number;
  /** "major:minor". */
  readonly device: string;
  readonly mountPoint: string;
  readonly type: string;
  readonly source: string;
}

/** In the order in which they were made. */
export function parseMountInfo(text: string): MountEntry[] {
  const mounts: MountEntry[] = [];
  for (const line of text.split('\n')) {
    // 36 35 98:0 /root /mount/point options optional… - type source super-options
    const [before, after] = line.split(' - ', 2);
    const left = before?.split(' ') ?? [];
    const right = after?.split(' ') ?? [];
    if (left.length < 6 || right.length < 2) continue;
    mounts.push({
      id: Number(left[0]),
      parent: Number(left[1]),
      device: left[2]!,
      mountPoint: unescaped(left[4]!),
      type: right[0]!,
      source: unescaped(right[1]!),
    });
  }
  return mounts;
}

/** Blank, tab, newline and backslash stand as octal. Bytes, because a path need not be valid UTF-8. */
export function unescaped(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
