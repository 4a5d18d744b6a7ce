/** Fields of /proc/self/mountinfo (proc_pid_mountinfo(5)), for the layers that read it. */

/** Blank, tab, newline and backslash stand as octal. Bytes, because a path need not be valid UTF-8. */
export function unescaped(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
