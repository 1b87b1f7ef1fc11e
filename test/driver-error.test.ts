import { expect, test } from 'vitest';
import { driverError } from '../src/driver-error.js';

test.each([
  ['COPY pgqrs_messages, line 17, column payload', 17],
  ['JSON data, line 1: …\nCOPY pgqrs_messages, line 17, column payload', 17],
  ['PL/pgSQL function refuse() line 3 at RAISE\nCOPY pgqrs_messages, line 17', 17],
  ['COPY pgqrs_messages, Zeile 17, Spalte payload', 17],
  ['PL/pgSQL function refuse() line 3 at RAISE', undefined],
  [undefined, undefined],
])('the row of a failed COPY is read from its context, in whatever language: %j', (where, line) => {
  const answer = Object.assign(new Error('refused'), { severity: 'ERROR', code: '23514', where });
  expect(driverError(answer)).toMatchObject({ line });
});
