const JSONB_OID = 3802;
/** Version byte that jsonb's binary input wants before the text. */
export const JSONB_VERSION = 1;
const HEADER_BYTES = 20;

/** A jsonb[] in binary format, with room for its elements and where they begin. */
export function jsonbArray(count: number, elementBytes: number): { array: Buffer; at: number } {
  const array = Buffer.allocUnsafe(HEADER_BYTES + elementBytes);
  let at = array.writeInt32BE(1); // dimensions
  at = array.writeInt32BE(0, at); // no nulls
  at = array.writeInt32BE(JSONB_OID, at);
  at = array.writeInt32BE(count, at);
  at = array.writeInt32BE(1, at); // lower bound
  return { array, at };
}

/** Of texts whose lengths in UTF-8 are known. */
export function jsonbArrayOf(texts: readonly { json: string; bytes: number }[]): Buffer {
  const elementBytes = texts.reduce((sum, { bytes }) => sum + 5 + bytes, 0);
  const { array, at: first } = jsonbArray(texts.length, elementBytes);
  let at = first;
  for (const { json, bytes } of texts) {
    at = array.writeInt32BE(bytes + 1, at);
    at = array.writeUInt8(JSONB_VERSION, at);
    at += array.write(json, at);
  }
  return array;
}
