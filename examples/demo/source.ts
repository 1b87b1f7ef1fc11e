import { createReadStream } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pipeline, Transform } from 'node:stream';
import { streamArray } from 'stream-json/streamers/stream-array.js';

/** Records in the data set; only the progress bars rely on it. */
export const FLIGHTS = 200_000;

/** 200,000 flights from a 10 MB JSON array (npm package vega-datasets), parsed as a stream. */
export function flights(limit: number): AsyncIterable<object> {
  const data = join(dirname(createRequire(import.meta.url).resolve('vega-datasets')), '..', 'data');
  const file = createReadStream(join(data, 'flights-200k.json'), { highWaterMark: 1 << 20 });
  let taken = 0;
  return pipeline(
    file,
    streamArray.withParserAsStream(),
    new Transform({
      objectMode: true,
      transform({ value }: { value: object }, _encoding, done) {
        if (taken++ < limit) this.push(value);
        done();
      },
    }),
    () => undefined, // a failure reaches whoever reads the last stream
  );
}
