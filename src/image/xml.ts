/**
 * The XML of descriptors and property lists: elements and text, read strictly and without help from outside. There are no
 * entities but the five that XML itself has and numbers of characters, so that nothing expands; a document type is passed
 * over where it declares nothing itself; what is not well formed is no document.
 */

export interface Element {
  readonly name: string;
  readonly children: readonly Element[];
  /** All text directly within, one piece behind the other. */
  readonly text: string;
}

/** Elements within each other; more are refused. */
const DEEPEST = 64;

/** Elements of a document; more are refused. */
const MOST_ELEMENTS = 2 ** 20;

const NAMED: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };

const NAME = '[A-Za-z_:][-A-Za-z0-9_:.]*';
const TAG = new RegExp(
  `<(${NAME})((?:\\s+${NAME}\\s*=\\s*(?:"[^"<]*"|'[^'<]*'))*)\\s*(/?)>|</(${NAME})\\s*>`,
  'y',
);

/** What is passed over: how it begins and how it ends. */
const SKIPPED: readonly (readonly [string, string])[] = [
  ['<?', '?>'],
  ['<!--', '-->'],
  ['<!DOCTYPE', '>'],
];

interface Open {
  readonly name: string;
  readonly children: Element[];
  readonly text: string[];
}

/** The root element; undefined where `source` is no such document. */
export function parseXml(source: string): Element | undefined {
  const outside: Open = { name: '', children: [], text: [] };
  const open: Open[] = [outside];
  let elements = 0;
  let at = source.startsWith('\ufeff') ? 1 : 0;
  while (at < source.length) {
    const within = open.at(-1)!;
    const next = source.indexOf('<', at);
    const text = decoded(source.slice(at, next < 0 ? source.length : next));
    if (text === undefined) return undefined;
    within.text.push(text);
    if (next < 0) break;
    at = next;
    const skipped = SKIPPED.find(([start]) => source.startsWith(start, at));
    if (skipped) {
      const end = source.indexOf(skipped[1], at + skipped[0].length);
      if (end < 0 || (skipped[0] === '<!DOCTYPE' && /[[<]/.test(source.slice(at + 1, end)))) return undefined;
      at = end + skipped[1].length;
      continue;
    }
    TAG.lastIndex = at;
    const tag = TAG.exec(source);
    if (!tag) return undefined;
    at = TAG.lastIndex;
    const [, start, , empty, end] = tag;
    if (start !== undefined) {
      if (++elements > MOST_ELEMENTS) return undefined;
      if (empty) within.children.push({ name: start, children: [], text: '' });
      else if (open.length > DEEPEST) return undefined;
      else open.push({ name: start, children: [], text: [] });
    } else {
      if (open.length === 1 || within.name !== end) return undefined;
      open.pop();
      open
        .at(-1)!
        .children.push({ name: within.name, children: within.children, text: within.text.join('') });
    }
  }
  const whole = open.length === 1 && outside.children.length === 1 && outside.text.join('').trim() === '';
  return whole ? outside.children[0] : undefined;
}

/** `text` with its references resolved; undefined where one is none. */
function decoded(text: string): string | undefined {
  if (!text.includes('&')) return text;
  let sound = true;
  const result = text.replace(/&(?:#(\d{1,7});|#x([0-9a-fA-F]{1,6});|([a-z]+);)?/g, (_, dec, hex, name) => {
    const code = dec ? Number(dec) : hex ? Number.parseInt(hex, 16) : undefined;
    const found =
      code !== undefined && code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : NAMED[name ?? ''];
    sound &&= found !== undefined;
    return found ?? '';
  });
  return sound ? result : undefined;
}

/** The only child of that name; undefined where there is none, or more than one. */
export function childOf(element: Element | undefined, name: string): Element | undefined {
  const found = element?.children.filter(child => child.name === name) ?? [];
  return found.length === 1 ? found[0] : undefined;
}
