import { SluiceError } from './base.js';

/** An option or a configuration field has a value that its rule refuses. Nothing was sent. */
export class InvalidOptionError extends SluiceError {
  readonly code = 'INVALID_OPTION';
  /** @param value as shown to the user; never a secret */
  constructor(
    readonly field: string,
    readonly rule: string,
    readonly value: string,
    options?: ErrorOptions,
  ) {
    super(`${field} must be ${rule}, got ${value}`, options);
  }
}

/** No source gave a value that is needed. */
export class MissingConfigError extends SluiceError {
  readonly code = 'MISSING_CONFIG';
  constructor(
    readonly field: string,
    where: string,
  ) {
    super(`${field} is missing: ${where}`);
  }
}
