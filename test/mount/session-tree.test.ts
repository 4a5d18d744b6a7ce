/**
 * What a session refuses to serve. A root whose parent is nobody was once taken, and listing it ended the process.
 */
import { closeSync, openSync } from 'node:fs';
import t from 'tap';
import { loadAddon, type NativeNode } from '../../src/native.js';
import { missing } from '../peers.js';

const ROOT: NativeNode = { id: 1, parent: 1, name: '', kind: 'directory', modified: 0 };

t.test('a tree that hangs on nothing is refused', { skip: missing([], ['fuse']) }, t => {
  const trees: [why: string, nodes: readonly NativeNode[]][] = [
    ['a root without a parent', [{ ...ROOT, parent: 0 }]],
    [
      'a root below something else',
      [
        { ...ROOT, parent: 2 },
        { ...ROOT, id: 2, name: 'x' },
      ],
    ],
    ['a root that is no directory', [{ ...ROOT, kind: 'text' }]],
    ['a child of nobody', [ROOT, { ...ROOT, id: 2, parent: 0, name: 'x' }]],
    ['nothing', []],
  ];
  for (const [why, nodes] of trees) {
    const fd = openSync('/dev/fuse', 'r+');
    const make = () =>
      new (loadAddon().Session)({
        fd,
        nodes,
        threads: 1,
        uid: 0,
        gid: 0,
        uring: false,
        writable: false,
        text: () => '',
        find: () => 0,
        list: () => {},
        ended: () => {},
      });
    t.throws(make, { code: 'EINVAL' }, why);
    closeSync(fd);
  }
  t.end();
});
