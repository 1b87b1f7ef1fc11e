/** What the demo's two processes say to each other. */

export type ConsumerOrder =
  | { type: 'consume'; url: string; schema: string; queue: string }
  /** The source has ended: so many messages there are. */
  | { type: 'total'; count: number };

export type ConsumerReport =
  { type: 'consumed'; count: number } | { type: 'done'; count: number; digest: string };
