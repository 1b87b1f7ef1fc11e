/** What nobody means: values of every kind, by name. Made anew for each use, since some of them are used up. */
export const JUNK: Record<string, () => unknown> = {
  undefined: () => undefined,
  null: () => null,
  true: () => true,
  NaN: () => NaN,
  Infinity: () => Infinity,
  '-1': () => -1,
  '1.5': () => 1.5,
  '2^53': () => 2 ** 53,
  'an empty text': () => '',
  'a NUL': () => 'a\0b',
  'half a pair': () => 'a\ud800b',
  'a huge text': () => 'x'.repeat(100_000),
  'an empty array': () => [],
  'an array of undefined': () => [undefined],
  'an array of null': () => [null],
  'an array of arrays': () => [[[]]],
  'a function': () => () => undefined,
  'a function that throws': () => () => {
    throw new RangeError('thrown by a function of the caller');
  },
  'a symbol': () => Symbol('junk'),
  'a bigint': () => -10n,
  'a huge bigint': () => 2n ** 80n,
  'an empty object': () => ({}),
  'a misspelt option': () => ({ bogus: 1 }),
  'no prototype': () => Object.create(null) as unknown,
  'an invalid Date': () => new Date(NaN),
  'a Date before PostgreSQL': () => new Date(-8.64e15),
  'a promise': () => Promise.resolve({}),
  'a false signal': () => ({ aborted: false, addEventListener: 1 }),
  'a Map': () => new Map(),
  'a number object': () => Object(7) as unknown,
  'getters that throw': () => hostileGetters(),
  'a hostile proxy': () => hostileProxy({}),
  'a hostile proxy of an array': () => hostileProxy([]),
  'a hostile proxy of a function': () => hostileProxy(() => undefined),
  'a revoked proxy': () => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    return proxy;
  },
};

/** Fails whatever is asked of it. */
function hostileProxy(target: object): unknown {
  const fail = () => {
    throw new TypeError('thrown by a trap of the caller');
  };
  const traps = Object.getOwnPropertyNames(Reflect).map((trap) => [trap, fail] as const);
  return new Proxy(target, Object.fromEntries(traps));
}

function hostileGetters(): unknown {
  const names = [
    'id',
    'readCount',
    'delaySeconds',
    'signal',
    'client',
    'query',
    'pool',
    'dsn',
    'all',
    'reason',
    'then',
  ];
  const fail = () => {
    throw new TypeError('thrown by a getter of the caller');
  };
  return Object.defineProperties(
    {},
    Object.fromEntries(
      [...names, 'toJSON', 'toString'].map((name) => [name, { enumerable: true, get: fail }]),
    ),
  );
}
