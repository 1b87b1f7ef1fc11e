// A program that starts a server; the test ends it in its own ways. With "leave" it ends by itself, without a stop();
// otherwise it goes on for ever.
import { startEmbedded } from '../../src/embedded/index.js';

process.on('SIGINT', () => {
  void server.stop().then(() => process.exit(0));
});
const server = await startEmbedded({ onLog: (line) => process.send?.({ line }) });
process.send?.({ pid: server.pid, url: server.url });
if (process.argv[2] !== 'leave') setInterval(() => undefined, 60_000);
