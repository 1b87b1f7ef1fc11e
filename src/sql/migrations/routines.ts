import type { Piece } from './piece.js';
import { routine } from './piece.js';
import { BY_KEY } from './plans.js';
import { RAISED } from '../statement.js';

/** Functions that a batch calls. */
export const ROUTINES: readonly Piece[] = [
  // What a foreign key does for every row, once per transaction: the queue and the worker (in the incarnation that the
  // caller knows) cannot be deleted before this transaction ends. A worker's own queue is kept by the worker's row: its
  // foreign key, and sluice_worker_moves. Locked itself, by all that write to it at once, a queue's row would have a new
  // multixact for each of them, and those are numbers that run out. Of another queue the row is locked: first the worker,
  // then the queue; whoever deletes both must do so in that order, so that the two can't deadlock. SECURITY DEFINER
  // because FOR KEY SHARE asks for an UPDATE privilege that a producer's role should not have.
  routine(
    'sluice_pin',
    'queue bigint, worker bigint, incarnation timestamp with time zone',
    `returns void language plpgsql security definer ${BY_KEY}`,
    (s) => `
declare
  own bigint;
begin
  select w.queue_id into own from ${s}.pgqrs_workers w where w.id = worker and w.started_at = incarnation for key share;
  if found then
    if own = queue then
      return;
    end if;
    perform from ${s}.pgqrs_queues q where q.id = queue for key share;
    if found then
      return;
    end if;
  end if;
  if exists (select from ${s}.pgqrs_queues q where q.id = queue) then
    raise exception 'worker % is gone or another incarnation', worker using errcode = '${RAISED.workerGone}';
  end if;
  raise exception 'queue % is gone', queue using errcode = '${RAISED.queueGone}';
end`,
  ),

  // For a statement that finds fewer rows inserted than it was given.
  routine(
    'sluice_rows_missing',
    '',
    'returns boolean language plpgsql',
    () => `
begin
  raise exception 'the table pgqrs_messages leaves rows out: a trigger or a rule' using errcode = '${RAISED.rowsMissing}';
end`,
  ),

  // The last statement before COMMIT. Raising makes a COMMIT that was sent along a ROLLBACK: no batch commits twice.
  routine(
    'sluice_advance',
    'stream bigint, run bigint, batch bigint, reached text, added bigint',
    `returns void language plpgsql ${BY_KEY}`,
    (s) => `
begin
  update ${s}.sluice_streams set seq = batch, position = reached, rows = rows + added, updated_at = now()
  where id = stream and epoch = run and seq = batch - 1;
  if not found then
    raise exception 'stream % is not at batch % of run %', stream, batch - 1, run using errcode = '${RAISED.streamMoved}';
  end if;
end`,
  ),
];
