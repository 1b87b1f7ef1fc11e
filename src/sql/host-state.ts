/** What a server says of itself; null where the role may not ask. */
export interface HostState {
  inRecovery: boolean;
  readOnlyByDefault: boolean;
  /** Which database cluster it is: the same on a primary and all its standbys. */
  system: string | null;
  /** Rises with every promotion. Of a standby it may be that of a while ago. */
  timeline: number | null;
}

/**
 * Since 14 a server reports the first two by itself, but nothing of who it is. On a primary the name of the WAL file
 * knows the timeline: the control file learns of a promotion with the next checkpoint only, minutes later.
 */
export const SELECT_HOST_STATE = hostState({
  system: 'system.system_identifier::text',
  standbyTimeline: 'greatest(checkpoint.timeline_id, recovery.min_recovery_end_timeline)',
  from: 'from pg_control_system() system, pg_control_checkpoint() checkpoint, pg_control_recovery() recovery',
});

/** Everybody may read the control file unless somebody has revoked it. */
export const SELECT_HOST_STATE_ONLY = hostState({ system: 'null::text', standbyTimeline: 'null', from: '' });

function hostState({ system, standbyTimeline, from }: Record<'system' | 'standbyTimeline' | 'from', string>) {
  return `/* sluice:select_host_state */
    select pg_is_in_recovery() as "inRecovery",
      current_setting('default_transaction_read_only')::boolean as "readOnlyByDefault",
      ${system} as system,
      case when pg_is_in_recovery() then ${standbyTimeline}
        else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int4 end as timeline
    ${from}`;
}
