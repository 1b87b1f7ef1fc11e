import type { StandardSchemaV1 } from '@standard-schema/spec';
import { read } from './check.js';
import {
  InvalidOptionError,
  type PayloadIssue,
  PayloadInvalidError,
  ValidatorError,
} from './errors/index.js';
import { isError } from './errors/thrown.js';
import { shown } from './shown.js';

/** What a schema takes: the type of the items that are written. */
export type SchemaInput<S extends StandardSchemaV1> = StandardSchemaV1.InferInput<S>;
/** What a schema makes of it: the type of the payload that is stored. */
export type SchemaOutput<S extends StandardSchemaV1> = StandardSchemaV1.InferOutput<S>;

/** Paths named in an error's message. */
const PATHS_SHOWN = 5;
const PATH_LENGTH_SHOWN = 80;

/**
 * Validates with a schema of any library that implements Standard Schema: zod, valibot, arktype and others.
 *
 * Issues are a verdict, and so is a PayloadInvalidError that a check throws. Anything else that is thrown, or an answer
 * that is none, means that the schema failed and nothing is known of the payload.
 *
 * zod 4 calls asynchronous refinements twice, first to find out that they are; one that rejects then leaves a rejection
 * that nobody can handle, which ends a Node process. Let them answer false.
 *
 * @returns a function that gives the schema's output for a payload, or a promise of it when the schema validates
 * asynchronously; it throws or rejects with a PayloadInvalidError or a ValidatorError
 * @throws {InvalidOptionError} `schema` is none
 * @example
 * const validate = schemaValidator(z.object({ to: z.email() }));
 */
export function schemaValidator<S extends StandardSchemaV1>(
  schema: S,
): (payload: unknown, index?: number) => SchemaOutput<S> | Promise<SchemaOutput<S>> {
  const standard = checkSchema(schema);
  return (payload, index) => {
    const judged = (result: unknown) => outputOf<S>(result, index);
    const failed = (thrown: unknown): never => {
      throw failureOf(thrown, index);
    };
    try {
      const result: unknown = standard.validate(payload);
      // Not by its class: promises of other libraries and realms are promises too.
      return isThenable(result) ? Promise.resolve(result).then(judged).catch(failed) : judged(result);
    } catch (error) {
      return failed(error);
    }
  };
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function';
}

function checkSchema(schema: unknown): StandardSchemaV1.Props {
  const rule = 'a Standard Schema, such as those of zod, valibot, arktype';
  const props = read('schema', rule, () => (isStandardSchema(schema) ? schema['~standard'] : undefined));
  if (props) return props;
  const value = schema === null || schema === undefined ? String(schema) : `another ${typeof schema}`;
  throw new InvalidOptionError('schema', rule, value);
}

function isStandardSchema(value: unknown): value is StandardSchemaV1 {
  // Schemas of arktype are functions.
  if ((typeof value !== 'object' || value === null) && typeof value !== 'function') return false;
  const standard: unknown = '~standard' in value && value['~standard'];
  if (typeof standard !== 'object' || standard === null) return false;
  return (
    'version' in standard &&
    standard.version === 1 &&
    'validate' in standard &&
    typeof standard.validate === 'function'
  );
}

/** A verdict on the payload, under its own index, or that there is none. */
function failureOf(thrown: unknown, index: number | undefined): PayloadInvalidError | ValidatorError {
  if (!isError(thrown) || !(thrown instanceof PayloadInvalidError))
    return new ValidatorError(index, { cause: thrown });
  const { reason, issues } = thrown;
  return thrown.index === index ? thrown : new PayloadInvalidError(index, reason, { issues, cause: thrown });
}

function outputOf<S extends StandardSchemaV1>(answer: unknown, index: number | undefined): SchemaOutput<S> {
  const result = answer as StandardSchemaV1.Result<unknown>;
  if (!result.issues && 'value' in result) return result.value;
  if (!Array.isArray(result.issues)) throw new TypeError('the schema answered neither a value nor issues');
  // Array.from() and not .map(): arktype's arrays are of classes whose constructors take more than a length.
  const issues = Array.from(result.issues as StandardSchemaV1.Issue[], ({ message, path = [] }) => ({
    message,
    path: written(path),
  }));
  throw new PayloadInvalidError(index, summary(issues), { issues });
}

/** Names paths only: a schema's messages may quote the payload. */
function summary(issues: readonly PayloadIssue[]): string {
  const paths = [...new Set(issues.map(({ path }) => path))].filter((path) => path !== '');
  const named = paths.slice(0, PATHS_SHOWN).map(cut);
  if (paths.length > PATHS_SHOWN) named.push('…');
  const where = named.length > 0 ? ` at ${named.join(', ')}` : '';
  const count = issues.length === 1 ? '1 issue' : `${issues.length} issues`;
  return `the schema refuses it${where} (${count}; see error.issues)`;
}

function cut(path: string): string {
  return path.length > PATH_LENGTH_SHOWN ? `${path.slice(0, PATH_LENGTH_SHOWN - 3)}…` : path;
}

/** A path as it would be written in code: `items[2].price`, `headers["content-type"]`. On one line, whatever the keys. */
function written(path: NonNullable<StandardSchemaV1.Issue['path']>): string {
  return Array.from(path, (segment, place) => {
    const key = typeof segment === 'object' ? segment.key : segment;
    if (typeof key !== 'string') return `[${String(key)}]`;
    if (!NAME.test(key)) return `[${shown(key)}]`;
    return place === 0 ? key : `.${key}`;
  }).join('');
}

const NAME = /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u;
