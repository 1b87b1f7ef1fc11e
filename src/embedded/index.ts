export { type EmbeddedServer, type EmbeddedServerOptions, startEmbedded } from './server.js';
