// A program that starts a server and then goes on for ever: the test ends it in its own ways.
import { startEmbedded } from '../../src/embedded/index.js';

const server = await startEmbedded();
process.on('SIGINT', () => {
  void server.stop().then(() => process.exit(0));
});
process.send?.({ pid: server.pid, url: server.url });
setInterval(() => undefined, 60_000);
