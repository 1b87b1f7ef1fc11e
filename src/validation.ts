/** What a payload must be like, beside being JSON that jsonb can store. */
export interface PayloadRules {
  /** Longest payload, in bytes of JSON, from 1 to 268,435,455. @default 1048576 */
  maxPayloadBytes: number;
  /** Longest string and key, in bytes of UTF-8. @default no limit */
  maxStringBytes: number | undefined;
  /** Deepest nesting: the payload itself is at depth 0, what it holds at 1. @default no limit */
  maxDepth: number | undefined;
  /** Keys that no object at any level may have. @default ['__proto__', 'constructor'] */
  forbiddenKeys: readonly string[];
  /** Keys that the payload must have, which must then be an object. @default none */
  requiredKeys: readonly string[];
}
