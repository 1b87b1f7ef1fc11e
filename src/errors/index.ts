export * from './base.js';
export * from './database.js';
export * from './enqueue.js';
export * from './payload.js';
export * from './queue.js';
export * from './settings.js';
export * from './stream.js';
export * from './worker.js';
