import { SluiceError } from './base.js';

/** What is wrong with a payload, in the words of a schema; may quote the payload. */
export interface PayloadIssue {
  message: string;
  /** Where in the payload: `items[2].price`; empty for the payload as a whole. */
  path: string;
}

/** A payload that cannot be stored: not JSON, JSON that jsonb refuses, or refused by a rule or a schema. */
export class PayloadInvalidError extends SluiceError {
  readonly code = 'PAYLOAD_INVALID';
  /** What the schema found. Not shown when the error is printed, since a schema's words may quote the payload. */
  declare readonly issues: readonly PayloadIssue[];
  constructor(
    /** Place of the item in its source or batch, counted from 0; undefined for a single message. */
    readonly index: number | undefined,
    readonly reason: string,
    { issues = [], ...options }: ErrorOptions & { issues?: readonly PayloadIssue[] } = {},
  ) {
    super(`payload${at(index)} cannot be stored: ${reason}`, options);
    // A getter of its own: not shown by inspect(), even with showHidden, and copied with the error.
    Object.defineProperty(this, 'issues', { get: () => issues });
  }
}

/**
 * The schema failed instead of judging: it threw, rejected, or answered neither a value nor issues. Whether the payload
 * can be stored is unknown, so it is no reject. What was thrown is the `cause`.
 */
export class ValidatorError extends SluiceError {
  readonly code = 'VALIDATOR_FAILED';
  constructor(
    /** Place of the item in its source or batch, counted from 0; undefined for a single message. */
    readonly index: number | undefined,
    options?: ErrorOptions,
  ) {
    super(`payload${at(index)} could not be validated: the schema itself failed; see error.cause`, options);
  }
}

/** A payload whose JSON is longer than the configured limit. */
export class PayloadTooLargeError extends SluiceError {
  readonly code = 'PAYLOAD_TOO_LARGE';
  constructor(
    /** Place of the item in its source or batch, counted from 0; undefined for a single message. */
    readonly index: number | undefined,
    readonly actualBytes: number,
    readonly maxBytes: number,
  ) {
    super(`payload${at(index)} is ${actualBytes} bytes of JSON; the limit is ${maxBytes} (maxPayloadBytes)`);
  }
}

function at(index: number | undefined): string {
  return index === undefined ? '' : ` at index ${index}`;
}
