import { CLAIM_ROUTINES } from './claim-routines.js';
import { PGQRS_TABLES } from './pgqrs-tables.js';
import { PHYSICS } from './physics.js';
import type { Piece } from './piece.js';
import { schema, version } from './piece.js';
import { ROUTINES } from './routines.js';
import { SETTLE_ROUTINES } from './settle-routines.js';
import { SLUICE_TABLES } from './sluice-tables.js';
import { SWEEP_ROUTINE } from './sweep-routine.js';
import { triggers } from './triggers.js';

export { type Catalogue, readCatalogue } from './catalogue.js';
export { inTransaction, type Piece, runsAlone } from './piece.js';

/** Version that this library installs and understands. */
export const VERSION = 4;

/** What an installation may be asked for; what is left open stays as it is. */
export interface Wanted {
  /** Whether inserts of foreign clients wake consumers. */
  notifyForeign?: boolean | undefined;
}

/** The whole schema, in the order of its making: guards stand before the foreign keys go that they replace. */
export const pieces = ({ notifyForeign }: Wanted = {}): readonly Piece[] => [
  schema(),
  ...PGQRS_TABLES,
  ...SLUICE_TABLES,
  ...ROUTINES,
  ...SETTLE_ROUTINES,
  ...CLAIM_ROUTINES,
  SWEEP_ROUTINE,
  ...triggers(notifyForeign),
  ...PHYSICS,
  version(VERSION, 'plans that no statistics change; walks that are shared'),
];
