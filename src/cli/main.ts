/**
 * The entry of every command but a mount that goes to the background (launch.ts).
 */
import { COMMANDS } from './commands.js';
import { type Failure, failureOf } from './failure.js';
import { flush, guardOutput } from './output.js';
import { program } from './program.js';

/** Commands that have commands. */
const NESTED = ['volume', 'snapshot'];

/** Runs the command of `argv` (without node and script). Resolves to the failure that is to be told, if any. */
export async function run(argv: readonly string[]): Promise<Failure | undefined> {
  const name = argv.find(word => COMMANDS.some(({ name }) => name === word)) ?? '';
  const next = argv[argv.indexOf(name) + 1] ?? '';
  const command = NESTED.includes(name) && /^[a-z]/.test(next) ? `${name} ${next}` : name;
  const told = (error: unknown) => failureOf(error, argv.includes('--json'), command);
  const failure = await program(argv)
    .then(parser => parser.parseAsync(argv, { from: 'user' }))
    .then(() => undefined, told);
  if (failure?.text) return failure;
  // Help has been written by commander, and ends as an error without a text.
  return flush().then(() => failure, told);
}

/** Runs, tells and exits. */
export async function main(argv: readonly string[]): Promise<never> {
  guardOutput();
  const failure = await run(argv);
  if (failure) {
    if (failure.text) process.stderr.write(failure.text);
    process.exitCode = failure.exit;
  }
  process.exit();
}
