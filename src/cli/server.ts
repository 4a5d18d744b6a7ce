/** The entry of the server of a mount in the background; launch.ts starts it. */
import { run } from './main.js';
import { connectLauncher } from './mount-server.js';

const launcher = connectLauncher();
const failure = await run(process.argv.slice(2));
if (failure) await launcher.answer({ stdout: '', stderr: failure.text, exit: failure.exit });
process.exit(failure?.exit ?? process.exitCode);
