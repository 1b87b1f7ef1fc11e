/** A name as it may stand in a message: quoted, on one line, not too long. */
export function shown(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 77)}…` : name);
}
