import type { StandardSchemaV1 } from '@standard-schema/spec';
import { InvalidOptionError, type PayloadIssue, PayloadInvalidError } from './errors/index.js';
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
 * zod 4 calls asynchronous refinements twice, first to find out that they are; one that rejects then leaves a rejection
 * that nobody can handle, which ends a Node process. Let them answer false.
 *
 * @returns a function that gives the schema's output for a payload, or a promise of it when the schema validates
 * asynchronously; it throws or rejects with a PayloadInvalidError
 * @throws {InvalidOptionError} `schema` is none
 * @example
 * const validate = schemaValidator(z.object({ to: z.email() }));
 */
export function schemaValidator<S extends StandardSchemaV1>(
  schema: S,
): (payload: unknown, index?: number) => SchemaOutput<S> | Promise<SchemaOutput<S>> {
  const standard = checkSchema(schema);
  return (payload, index) => {
    let result;
    try {
      result = standard.validate(payload);
    } catch (error) {
      throw failed(index, error);
    }
    if (!(result instanceof Promise)) return outputOf<S>(result, index);
    return result.then(
      (settled) => outputOf<S>(settled, index),
      (error: unknown) => {
        throw failed(index, error);
      },
    );
  };
}

function checkSchema(schema: unknown): StandardSchemaV1.Props {
  if (isStandardSchema(schema)) return schema['~standard'];
  const value = schema === null || schema === undefined ? String(schema) : `another ${typeof schema}`;
  throw new InvalidOptionError('schema', 'a Standard Schema, such as those of zod, valibot, arktype', value);
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

function failed(index: number | undefined, cause: unknown): PayloadInvalidError {
  return new PayloadInvalidError(index, 'the schema itself failed', { cause });
}

function outputOf<S extends StandardSchemaV1>(
  result: StandardSchemaV1.Result<unknown>,
  index: number | undefined,
): SchemaOutput<S> {
  if (!result.issues) return result.value;
  // Array.from() and not .map(): arktype's arrays are of classes whose constructors take more than a length.
  const issues = Array.from(result.issues, ({ message, path = [] }) => ({ message, path: written(path) }));
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
