/**
 * A daemon as `asof serve` runs one, with a provider that is told to take a snapshot and never answers: it says so, so that
 * a test can kill it between freeze and thaw. Arguments: the state directory, the mount point.
 */
import type { SnapshotProvider } from '../../src/cow/provider.js';
import { PROVIDERS } from '../../src/cow/providers.js';
import { createLog } from '../../src/log.js';
import { runDaemon } from '../../src/server/daemon.js';

const [state, mount] = process.argv.slice(2);
const stuck: SnapshotProvider = {
  ...PROVIDERS[0]!,
  take() {
    process.stdout.write('taking\n');
    return new Promise(() => {});
  },
};
(PROVIDERS as SnapshotProvider[])[0] = stuck;
await runDaemon({ state: state!, mount, allowOther: false, log: createLog('error') }, async () => {
  process.stdout.write('ready\n');
});
