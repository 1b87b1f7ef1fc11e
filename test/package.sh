#!/usr/bin/env bash
# Installs the packed package into an empty project and uses it as a user would: both entries, with types, no dev tools.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
project=$(mktemp -d)
trap 'rm -rf "$project"' EXIT
tarball=$(cd "$root" && npm pack --silent --ignore-scripts --pack-destination "$project" | tail -n 1)
cd "$project"
printf '{ "name": "user", "private": true, "type": "module" }\n' >package.json
npm install --silent --no-audit --no-fund "./$tarball"
cat >use.mjs <<'JS'
import { Config, connect, Consumer, Producer, rateLimit, SluiceError } from 'pg-sluice';
import { ProducerStream, rateLimit as fromStreams } from 'pg-sluice/streams';
import { startEmbedded } from 'pg-sluice/embedded';

if (rateLimit !== fromStreams) throw new Error('the entries hold two copies');
for (const value of [connect, Consumer, Producer, ProducerStream, startEmbedded]) {
  if (typeof value !== 'function') throw new Error('an export is missing');
}
// The optional peer is not installed here: that must be said, not crash.
const refused = await startEmbedded().catch((error) => error);
if (!(refused instanceof SluiceError) || refused.code !== 'EMBEDDED_SERVER') throw refused;
if (Config.fromDsn('postgresql://localhost/mydb').schema !== 'public') throw new Error('defaults');
JS
node use.mjs
cat >use.ts <<'TS'
import { connect, type Message, type Producer } from 'pg-sluice';
import { rateLimit, type RateLimitOptions } from 'pg-sluice/streams';

export async function use(url: string): Promise<void> {
  await using sluice = await connect(url);
  const producer: Producer = await sluice.producer('q');
  const options: RateLimitOptions = { perSecond: 10 };
  producer.writable<{ n: number }>({ delaySeconds: ({ n }) => n }).on('batch', ({ rows }) => rows.toFixed());
  rateLimit(options);
  const messages: AsyncIterable<Message<{ n: number }>> = (await sluice.consumer('q')).messages<{ n: number }>();
  for await (const { payload } of messages) payload.n.toFixed();
}
TS
npm install --silent --no-audit --no-fund --no-save @types/node@20
"$root/node_modules/.bin/tsc" --noEmit --strict --target es2022 --lib es2022,esnext.disposable --module nodenext --types node use.ts
echo 'the package installs, runs and type-checks'
