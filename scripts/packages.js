/**
 * Which Debian packages are needed for what: the one table. It is asked by the set-up scripts, which install what is
 * missing, and by the tests, which name the package of a program that they miss.
 *
 * A package counts as present where its proof is: a program on the PATH, a header, or a shared library. Whoever has
 * these from elsewhere needs neither Debian nor apt.
 */
import { accessSync, constants, existsSync, readdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/**
 * `need`: build (compiling the addon), run (mounting), demo (npm start), test (the peers that tests compare with),
 * bench (the peers that are measured). `proof`: what the package is wanted for.
 */
export const PACKAGES = [
  { name: 'g++', need: 'build', proof: { program: 'g++' }, what: 'compiles the addon' },
  { name: 'make', need: 'build', proof: { program: 'make' }, what: 'compiles the addon' },
  { name: 'python3', need: 'build', proof: { program: 'python3' }, what: 'node-gyp runs on it' },
  { name: 'libc6-dev', need: 'build', proof: { header: 'stdio.h' }, what: 'headers of the C library' },
  { name: 'linux-libc-dev', need: 'build', proof: { header: 'linux/fuse.h' }, what: 'headers of the kernel' },
  { name: 'libbz2-dev', need: 'build', proof: { header: 'bzlib.h' }, what: 'unpacks bzip2 chunks' },
  { name: 'libdeflate-dev', need: 'build', proof: { header: 'libdeflate.h' }, what: 'unpacks zlib clusters' },
  { name: 'liblz4-dev', need: 'build', proof: { header: 'lz4.h' }, what: 'unpacks LZ4 chunks' },
  { name: 'liblzma-dev', need: 'build', proof: { header: 'lzma.h' }, what: 'unpacks xz chunks' },
  { name: 'libsnappy-dev', need: 'build', proof: { header: 'snappy-c.h' }, what: 'unpacks Snappy chunks' },
  { name: 'libzstd-dev', need: 'build', proof: { header: 'zstd.h' }, what: 'unpacks zstd clusters' },
  { name: 'fuse3', need: 'run', proof: { program: 'fusermount3' }, what: 'mounts without root' },
  { name: 'libfuse2', need: 'run', proof: { library: 'libfuse.so.2' }, what: 'the driver fuse-native' },
  { name: 'qemu-utils', need: 'demo', proof: { program: 'qemu-img' }, what: 'qemu-img, qemu-io, qemu-nbd' },
  { name: 'e2fsprogs', need: 'demo', proof: { program: 'debugfs' }, what: 'mke2fs, debugfs, e2fsck' },
  { name: 'fio', need: 'test', proof: { program: 'fio' }, what: 'verified patterns; the load of benchmarks' },
  { name: 'util-linux', need: 'test', proof: { program: 'losetup' }, what: 'losetup, partx, findmnt' },
  { name: 'mount', need: 'test', proof: { program: 'mount' }, what: 'mount, umount' },
  { name: 'xfsprogs', need: 'test', proof: { program: 'mkfs.xfs' }, what: 'file systems to mount' },
  { name: 'btrfs-progs', need: 'test', proof: { program: 'mkfs.btrfs' }, what: 'file systems to mount' },
  { name: 'ntfs-3g', need: 'test', proof: { program: 'mkntfs' }, what: 'file systems to mount' },
  { name: 'partclone', need: 'test', proof: { program: 'partclone.extfs' }, what: 'maps of used space' },
  { name: 'dosfstools', need: 'test', proof: { program: 'mkfs.fat' }, what: 'file systems to leave unused' },
  {
    name: 'exfatprogs',
    need: 'test',
    proof: { program: 'mkfs.exfat' },
    what: 'file systems to leave unused',
  },
  {
    name: 'exfat-fuse',
    need: 'test',
    proof: { program: 'mount.exfat-fuse' },
    what: 'exFAT without a kernel',
  },
  { name: 'mtools', need: 'test', proof: { program: 'mcopy' }, what: 'files of FAT without a kernel' },
  { name: 'fdisk', need: 'test', proof: { program: 'sfdisk' }, what: 'partitions to find' },
  { name: 'fuse2fs', need: 'test', proof: { program: 'fuse2fs' }, what: 'attaches ext without root' },
  { name: 'fusefat', need: 'test', proof: { program: 'fusefat' }, what: 'attaches FAT' },
  { name: 'cryptsetup-bin', need: 'test', proof: { program: 'cryptsetup' }, what: 'contents to name' },
  { name: 'genisoimage', need: 'test', proof: { program: 'genisoimage' }, what: 'contents to name' },
  { name: 'gdisk', need: 'test', proof: { program: 'sgdisk' }, what: 'an oracle for partition tables' },
  { name: 'attr', need: 'test', proof: { program: 'setfattr' }, what: 'attributes to restore' },
  { name: 'acl', need: 'test', proof: { program: 'setfacl' }, what: 'ACLs to restore' },
  { name: 'systemd', need: 'test', proof: { program: 'systemd-analyze' }, what: 'checks the unit' },
  { name: 'xz-utils', need: 'test', proof: { program: 'xz' }, what: 'unpacks sample images' },
  { name: 'postgresql', need: 'test', proof: { program: 'pg_ctlcluster' }, what: 'a database to recover' },
  { name: 'gddrescue', need: 'test', proof: { program: 'ddrescuelog' }, what: 'an oracle for its mapfiles' },
  { name: 'libvhdi-utils', need: 'test', proof: { program: 'vhdimount' }, what: 'reads VHD chains' },
  { name: 'sleuthkit', need: 'test', proof: { program: 'img_cat' }, what: 'reads VMDK, VHD and E01' },
  { name: 'libvshadow-utils', need: 'test', proof: { program: 'vshadowmount' }, what: 'reads shadow copies' },
  { name: '7zip', need: 'test', proof: { program: '7zz' }, what: 'reads DMG, LZFSE too' },
  { name: 'dmg2img', need: 'test', proof: { program: 'dmg2img' }, what: 'reads DMG' },
  { name: 'zstd', need: 'test', proof: { program: 'zstd' }, what: 'an oracle for zstd frames' },
  {
    name: 'mariadb-server-core',
    need: 'test',
    proof: { program: 'mariadbd' },
    what: 'a writer to hold still',
  },
  { name: 'mariadb-client-core', need: 'test', proof: { program: 'mariadb' }, what: 'its client' },
  { name: 'qemu-guest-agent', need: 'test', proof: { program: 'qemu-ga' }, what: 'a writer to hold still' },
  { name: 'bzip2', need: 'test', proof: { program: 'bzip2' }, what: 'packs Ex01 fixtures' },
  { name: 'qemu-system-x86', need: 'test', proof: { program: 'qemu-system-x86_64' }, what: 'boots a mirror' },
  { name: 'ewf-tools', need: 'test', proof: { program: 'ewfacquire' }, what: 'writes and reads E01' },
  { name: 'qemu-system-common', need: 'bench', proof: { program: 'qemu-storage-daemon' }, what: 'a peer' },
  { name: 'xmount', need: 'bench', proof: { program: 'xmount' }, what: 'a peer' },
  { name: 'libvmdk-utils', need: 'bench', proof: { program: 'vmdkmount' }, what: 'a peer' },
  { name: 'libqcow-utils', need: 'bench', proof: { program: 'qcowmount' }, what: 'a peer' },
  { name: 'restic', need: 'bench', proof: { program: 'restic' }, what: 'a peer' },
  { name: 'borgbackup', need: 'bench', proof: { program: 'borg' }, what: 'a peer' },
  { name: 'time', need: 'bench', proof: { program: 'time' }, what: 'what a program costs' },
];

/** Programs whose package has another program as its proof. */
const ALSO = {
  'qemu-io': 'qemu-utils',
  'qemu-nbd': 'qemu-utils',
  ewfacquirestream: 'ewf-tools',
  ewfexport: 'ewf-tools',
  mke2fs: 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  'mkfs.ext4': 'e2fsprogs',
  filefrag: 'e2fsprogs',
  chattr: 'e2fsprogs',
  lsattr: 'e2fsprogs',
  swaplabel: 'util-linux',
  dumpe2fs: 'e2fsprogs',
  getfattr: 'attr',
  getfacl: 'acl',
  mkswap: 'util-linux',
  xfs_logprint: 'xfsprogs',
  xfs_repair: 'xfsprogs',
  'partclone.xfs': 'partclone',
  'partclone.btrfs': 'partclone',
  'partclone.ntfs': 'partclone',
  'partclone.fat': 'partclone',
  'partclone.exfat': 'partclone',
  'fsck.fat': 'dosfstools',
  mdel: 'mtools',
  mtype: 'mtools',
  'fsck.exfat': 'exfatprogs',
  ntfsfix: 'ntfs-3g',
  ntfscp: 'ntfs-3g',
  ntfscat: 'ntfs-3g',
  'ntfs-3g': 'ntfs-3g',
  btrfs: 'btrfs-progs',
  partx: 'util-linux',
  blkid: 'util-linux',
  addpart: 'util-linux',
  unshare: 'util-linux',
  blockdev: 'util-linux',
  'mkfs.ext2': 'e2fsprogs',
  'mkfs.ext3': 'e2fsprogs',
  fsfreeze: 'util-linux',
  fstrim: 'util-linux',
  setpriv: 'util-linux',
  umount: 'mount',
  postgres: 'postgresql',
  initdb: 'postgresql',
  pgbench: 'postgresql',
  pg_amcheck: 'postgresql',
  psql: 'postgresql',
  runuser: 'util-linux',
  'mariadb-install-db': 'mariadb-server-core',
};

const SBIN = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/**
 * The path of a program, undefined where there is none; administrators' folders count, whoever asks, and those where
 * Debian keeps PostgreSQL, a folder a version.
 */
export function findProgram(name) {
  for (const folder of [...(process.env.PATH ?? '').split(delimiter), ...SBIN, ...postgresqlFolders()]) {
    if (!folder) continue;
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}

function postgresqlFolders() {
  const root = '/usr/lib/postgresql';
  if (!existsSync(root)) return [];
  const versions = readdirSync(root).map(Number).filter(Number.isFinite);
  return versions.sort((a, b) => b - a).map(version => join(root, String(version), 'bin'));
}

/** The package that has the program, for a message. */
export function packageOf(program) {
  return PACKAGES.find(({ proof }) => proof.program === program)?.name ?? ALSO[program] ?? program;
}

/** Those packages of the `needs` whose proof is not there, in the table's order. */
export function missingPackages(needs) {
  return PACKAGES.filter(({ need, proof }) => needs.includes(need) && !present(proof));
}

function present({ program, header, library }) {
  if (program) return findProgram(program) !== undefined;
  if (header) return headerFolders().some(folder => existsSync(join(folder, header)));
  return libraryFolders().some(folder => existsSync(join(folder, library)));
}

function headerFolders() {
  const root = '/usr/include';
  const more = (process.env.CPATH ?? '').split(delimiter).filter(Boolean);
  return [...more, '/usr/local/include', root, ...multiarch(root)];
}

function libraryFolders() {
  const roots = ['/lib', '/usr/lib', '/lib64', '/usr/lib64', '/usr/local/lib'];
  return roots.flatMap(root => [root, ...multiarch(root)]);
}

/** Debian's folders of one architecture, such as /usr/lib/x86_64-linux-gnu. */
function multiarch(root) {
  if (!existsSync(root)) return [];
  return readdirSync(root)
    .filter(name => /-linux-gnu\w*$/.test(name))
    .map(name => join(root, name));
}
