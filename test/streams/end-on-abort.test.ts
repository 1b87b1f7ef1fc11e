import { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import { endOnAbort } from '../../streams/end-on-abort.js';

test.each(['before', 'after'])(
  'a signal that aborts %s the pipeline is made ends it, with its reason',
  async (when) => {
    const abort = new AbortController();
    if (when === 'before') abort.abort(new Error('enough'));
    const sink = endOnAbort(abort.signal, new Writable({ objectMode: true, write: () => undefined }));
    const piped = pipeline(Readable.from([1, 2, 3]), sink);
    abort.abort(new Error('enough'));
    await expect(piped).rejects.toMatchObject({ name: 'AbortError', cause: { message: 'enough' } });
  },
);
