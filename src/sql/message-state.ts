/**
 * What becomes next of `m`, a message that is not archived. An expired lease of ours has ended; one of a foreign client's,
 * which never renews, says nothing. What such a client enqueued without `vt` or `read_ct` has been due since then, and is
 * not delivered yet.
 * @param maxReadCount an expression
 */
export const activeState = (s: string, maxReadCount: string) => `case
      when m.consumer_worker_id is not null and (m.vt > now() or not exists (
        select from ${s}.sluice_workers ours where ours.worker_id = m.consumer_worker_id)) then 'leased'
      when coalesce(m.read_ct, 0) >= ${maxReadCount} then 'exhausted'
      when m.vt > now() then 'delayed'
      else 'ready' end`;
