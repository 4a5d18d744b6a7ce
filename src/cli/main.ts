/**
 * The entry of every command but a mount that goes to the background (launch.ts).
 */
import { COMMANDS } from './commands.js';
import { type Failure, failureOf } from './failure.js';
import { flush, guardOutput } from './output.js';
import { program } from './program.js';

/** Runs the command of `argv` (without node and script). Resolves to the failure that is to be told, if any. */
export async function run(argv: readonly string[]): Promise<Failure | undefined> {
  try {
    await (await program(argv)).parseAsync(argv, { from: 'user' });
    return undefined;
  } catch (error) {
    const command = argv.find(word => COMMANDS.some(({ name }) => name === word)) ?? '';
    return failureOf(error, argv.includes('--json'), command);
  }
}

/** Runs, tells and exits. */
export async function main(argv: readonly string[]): Promise<never> {
  guardOutput();
  const failure = await run(argv);
  await flush();
  if (failure) {
    if (failure.text) process.stderr.write(failure.text);
    process.exitCode = failure.exit;
  }
  process.exit();
}
