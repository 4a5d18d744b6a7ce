/**
 * information.turtle of an AFF4 container: as much of Turtle (W3C, RDF 1.1 Turtle) as writers of AFF4 use. Prefixes, names,
 * literals with a type; no blank nodes, no lists: what has them is not read.
 */

export interface Value {
  /** A full name, or the text of a literal. */
  readonly text: string;
  /** Of a literal: the full name of its type, '' where it has none. undefined for a name. */
  readonly type?: string;
}

/** Subject, predicate, values. */
export type Statements = ReadonlyMap<string, ReadonlyMap<string, readonly Value[]>>;

/** Values of all statements; more are refused. */
const MOST_VALUES = 2 ** 20;

export const RDF_TYPE = 'http://www.w3.org/1999/02/22-rdf-syntax-ns#type';
const TOKEN =
  /\s*(?:#[^\n]*(?:\n|$)\s*)*(?:<([^<>"{}|^`\\\s]*)>|"""((?:[^"\\]|\\.|"(?!""))*)"""|"((?:[^"\\\n]|\\.)*)"|(@prefix|@base|\^\^|@[A-Za-z][-A-Za-z0-9]*|[;,]|\.(?=\s|$)|a(?=\s))|([A-Za-z][-\w]*)?:([-\w.%]*[-\w%])?|([-+]?\d+(?:\.\d+)?|true|false))/y;

/** undefined where `source` is no such text. */
export function parseTurtle(source: string): Statements | undefined {
  const statements = new Map<string, Map<string, Value[]>>();
  const prefixes = new Map<string, string>();
  let count = 0;
  let at = 0;
  const next = (): { name?: string; literal?: string; sign?: string; prefix?: string } | undefined => {
    TOKEN.lastIndex = at;
    const found = TOKEN.exec(source);
    if (!found) return undefined;
    at = TOKEN.lastIndex;
    const [, iri, long, short, sign, prefix, local, plain] = found;
    const literal = long ?? short;
    if (iri !== undefined) return { name: iri };
    if (literal !== undefined) return { literal: unescaped(literal) };
    if (sign !== undefined) return { sign };
    if (plain !== undefined) return { literal: plain };
    const base = prefixes.get(prefix ?? '');
    return { prefix: prefix ?? '', ...(base === undefined ? {} : { name: base + (local ?? '') }) };
  };
  const end = /\s*(?:#[^\n]*\n\s*)*$/y;
  for (;;) {
    end.lastIndex = at;
    if (end.test(source)) return statements;
    const subject = next();
    if (subject?.sign === '@prefix') {
      const prefix = next()?.prefix;
      const base = next()?.name;
      if (prefix === undefined || base === undefined || next()?.sign !== '.') return undefined;
      prefixes.set(prefix, base);
      continue;
    }
    if (subject?.name === undefined) return undefined;
    const predicates = statements.get(subject.name) ?? new Map<string, Value[]>();
    statements.set(subject.name, predicates);
    let sign = ';';
    while (sign === ';') {
      const token = next();
      // A semicolon may stand before the end, too.
      if (token?.sign === '.') break;
      const predicate = token?.sign === 'a' ? RDF_TYPE : token?.name;
      if (predicate === undefined) return undefined;
      const values = predicates.get(predicate) ?? [];
      predicates.set(predicate, values);
      do {
        const value = next();
        if (value?.name === undefined && value?.literal === undefined) return undefined;
        let after = next();
        let type = '';
        if (value.literal !== undefined && after?.sign === '^^') {
          type = next()?.name ?? '';
          after = next();
        } else if (value.literal !== undefined && after?.sign && /^@[A-Za-z]/.test(after.sign)) {
          after = next();
        }
        if (++count > MOST_VALUES) return undefined;
        values.push(value.name !== undefined ? { text: value.name } : { text: value.literal!, type });
        if (after?.sign === undefined || !/^[;,.]$/.test(after.sign)) return undefined;
        sign = after.sign;
      } while (sign === ',');
    }
  }
}

function unescaped(text: string): string {
  if (!text.includes('\\')) return text;
  const simple: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t', b: '\b', f: '\f' };
  return text.replace(/\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))/g, (_, four, eight, one) => {
    const code = Number.parseInt(four ?? eight ?? 'x', 16);
    if (code <= 0x10ffff) return String.fromCodePoint(code);
    return simple[one ?? ''] ?? one ?? '';
  });
}
