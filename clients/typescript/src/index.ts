/** Client of the LLMEmb service. */

import { answered, ConnectionFailedError, LLMEmbClientError, TimedOutError } from "./errors.js";
import { floats } from "./floats.js";
import type {
  BundleAnswer,
  BundleChange,
  EmbedAnswer,
  Embedding as WireEmbedding,
  ExplainAnswer,
  ItemAnswer,
  ItemsAnswer,
  PutAnswer,
  PutItemsAnswer,
  Ready,
  RecommendAnswer,
  RecommendBatchAnswer,
  SimilarAnswer,
} from "./schema.js";

export * from "./errors.js";
export type { BundleAnswer, BundleChange, ExplainAnswer, ItemAnswer, PutAnswer, Ready };
export type { RecommendAnswer, SimilarAnswer };

/** Attribute name to value: text, number, boolean, or lists and objects of those. */
export type Attributes = Record<string, unknown>;

/** An entry of a sequence: the id of an item, or the attributes of one that the catalogue lacks. */
export type Entry = string | Attributes;

/** What an attribute must be; everything that is given must hold. */
export interface AttributeFilter {
  any?: (string | number | boolean)[];
  all?: (string | number | boolean)[];
  none?: (string | number | boolean)[];
  gte?: number;
  gt?: number;
  lte?: number;
  lt?: number;
}

/** By attribute, what it must be: `{year: {gte: 1990}, genres: {any: ["Crime"]}}`. */
export type Filter = Record<string, AttributeFilter>;

/** An item to put into the catalogue. */
export interface Item {
  id: string;
  attributes: Attributes;
}

/** One item's vector. */
export type Embedding = Omit<WireEmbedding, "embedding"> & { embedding: Float32Array };

/** Vectors, in the order of the items. */
export type Embeddings = Omit<EmbedAnswer, "data"> & { data: Embedding[] };

/** How many items of a stream were put; `same`: the catalogue had them like that already. */
export interface PutCount {
  created: number;
  changed: number;
  same: number;
}

export interface RecommendOptions {
  /** Ids, and attributes of items that the catalogue lacks, oldest first. */
  sequence: Entry[];
  /** How many items; fewer only if fewer are eligible. */
  k?: number;
  /** Who asks, by whatever name: it decides which bundle answers where two are compared. */
  user?: string;
  /** Leave out the items of the sequence. */
  excludeSeen?: boolean;
  /** Ids to leave out as well. */
  exclude?: string[];
  /** What items must be. */
  filter?: Filter;
  /** So many of the items at least have no interaction in training. */
  minCold?: number;
  /** Added to the score of items with few interactions. */
  tailBoost?: number;
  /** Added to the score of items put lately. */
  freshnessBoost?: number;
  /** Weight of being unlike the items above, 0 to 1. */
  diversity?: number;
  /** Tell which entries of the sequence drove each item. */
  explain?: boolean;
  /** Tell what the catalogue knows of each item. */
  details?: boolean;
}

export interface ClientOptions {
  /** API key, where the service asks for one. */
  key?: string;
  /** Milliseconds that one try may take. */
  timeout?: number;
  /** Further tries of a call. */
  retries?: number;
  /** Makes the requests. */
  fetch?: typeof fetch;
}

interface Asked {
  body?: unknown;
  headers?: Record<string, string>;
  repeatable?: boolean;
  timeout?: number;
}

const REFUSED = new Set([429, 502, 503, 504]); // nothing was done: safe to ask again
const FIRST_DELAY = 100;
const LONGEST_DELAY = 30_000;

/**
 * A connection to an LLMEmb service.
 *
 * Whatever fails throws an `LLMEmbClientError`. Where the service was not reached or refused for want of
 * time (429, 503), a call is tried again, after as long as the service says, or after .1 s, .2 s, .4 s and
 * so on.
 */
export class Client {
  readonly #url: string;
  readonly #headers: Record<string, string>;
  readonly #timeout: number;
  readonly #retries: number;
  readonly #fetch: typeof fetch;

  constructor(url = "http://127.0.0.1:8000", options: ClientOptions = {}) {
    this.#url = url.replace(/\/+$/, "");
    this.#headers = options.key ? { Authorization: `Bearer ${options.key}` } : {};
    this.#timeout = options.timeout ?? 10_000;
    this.#retries = options.retries ?? 4;
    this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
  }

  /** The next items for a sequence. */
  recommend({ sequence, ...options }: RecommendOptions): Promise<RecommendAnswer> {
    const body = { ...snakeCase(options), sequence: sequence.map(wireEntry) };
    return this.#json("POST", "/recommend", { body });
  }

  /** The next items for many sequences, in their order. */
  async recommendBatch(options: { sequences: Entry[][]; k?: number }): Promise<RecommendAnswer[]> {
    const { sequences, k = 10 } = options;
    const body = { requests: sequences.map((each) => ({ sequence: each.map(wireEntry), k })) };
    const answer: RecommendBatchAnswer = await this.#json("POST", "/recommend/batch", { body });
    return answer.results;
  }

  /** The nearest items to one that is given by its attributes. */
  similar(options: { attributes: Attributes; k?: number; filter?: Filter }): Promise<SimilarAnswer> {
    return this.#json("POST", "/items/similar", { body: options });
  }

  /** The nearest items to one of the catalogue. */
  similarTo({ itemId, k = 10 }: { itemId: string; k?: number }): Promise<SimilarAnswer> {
    return this.#json("GET", `${path(itemId)}/similar?k=${k}`);
  }

  /** Where an item stands after a sequence, and what each attribute does for that. */
  explain(options: { attributes: Attributes; sequence: Entry[] }): Promise<ExplainAnswer> {
    const body = { attributes: options.attributes, sequence: options.sequence.map(wireEntry) };
    return this.#json("POST", "/items/explain", { body });
  }

  /**
   * Items' vectors.
   *
   * `space`: `srs`, item vectors that the recommender scores, or `llm`, the LLM's own; `truncate`: cut the
   * end of an item that is longer than the model reads, or refuse it; `prompt`: give the text that the LLM
   * reads of each item as well.
   */
  async embed(options: {
    items: Attributes[];
    space?: "srs" | "llm";
    truncate?: boolean;
    prompt?: boolean;
  }): Promise<Embeddings> {
    const { items, space = "srs", truncate = true, prompt = false } = options;
    const body = {
      items: items.map((attributes) => ({ attributes })),
      space,
      truncate,
      prompt,
      encoding_format: "base64",
    };
    const answer: EmbedAnswer = await this.#json("POST", "/items/embed", { body });
    return {
      ...answer,
      data: answer.data.map((one) => ({ ...one, embedding: floats(one.embedding as string) })),
    };
  }

  /** What the catalogue knows of an item. */
  getItem({ itemId }: { itemId: string }): Promise<ItemAnswer> {
    return this.#json("GET", path(itemId));
  }

  /** The whole catalogue in the order of ids, read in pages of so many. */
  async *items({ page = 1000 }: { page?: number } = {}): AsyncGenerator<ItemAnswer> {
    let after: string | null = "";
    while (after !== null) {
      const query = new URLSearchParams({ after, limit: String(page) });
      const answer: ItemsAnswer = await this.#json("GET", `/items?${query}`);
      yield* answer.items;
      after = answer.next;
    }
  }

  /** Items whose id or texts hold a text, those used most in training first. */
  async findItems({ text, limit = 20 }: { text: string; limit?: number }): Promise<ItemAnswer[]> {
    const query = new URLSearchParams({ search: text, limit: String(limit) });
    const answer: ItemsAnswer = await this.#json("GET", `/items?${query}`);
    return answer.items;
  }

  /**
   * Add an item or replace it; it can be recommended at once.
   *
   * With `ifVersion`, only if this is its version; with `ifAbsent`, only if the catalogue lacks it: a
   * `ConflictError` otherwise.
   */
  putItem(options: {
    itemId: string;
    attributes: Attributes;
    ifVersion?: number;
    ifAbsent?: boolean;
  }): Promise<PutAnswer> {
    const headers = options.ifAbsent ? { "If-None-Match": "*" } : ifMatch(options.ifVersion);
    const body = { attributes: options.attributes };
    return this.#json("PUT", path(options.itemId), { body, headers });
  }

  /**
   * Add or replace a stream of items, `batch` at a time; the stream may be endless.
   *
   * None of a request is put if one of its items is not valid; what was put before it stays.
   */
  async putItems(options: {
    items: Iterable<Item> | AsyncIterable<Item>;
    batch?: number;
    onProgress?: (done: PutCount) => void;
  }): Promise<PutCount> {
    const done: PutCount = { created: 0, changed: 0, same: 0 };
    const put = async (items: Item[]): Promise<void> => {
      const answer: PutItemsAnswer = await this.#json("POST", "/items", { body: { items } });
      for (const one of answer.items) done[one.outcome] += 1;
      options.onProgress?.({ ...done });
    };
    let some: Item[] = [];
    for await (const item of options.items) {
      some.push(item);
      if (some.length >= (options.batch ?? 256)) {
        await put(some);
        some = [];
      }
    }
    if (some.length) await put(some);
    return done;
  }

  /** Delete an item; with `ifVersion`, only if this is its version. */
  async deleteItem({ itemId, ifVersion }: { itemId: string; ifVersion?: number }): Promise<void> {
    await this.#ask("DELETE", path(itemId), { headers: ifMatch(ifVersion) });
  }

  /** What holds of the service. */
  ready(): Promise<Ready> {
    return this.#json("GET", "/health/ready");
  }

  /** What is served. */
  bundle(): Promise<BundleAnswer> {
    return this.#json("GET", "/bundle");
  }

  /** Serve another bundle, by its folder's name beside the one served, or the same folder read anew. */
  reload({ bundle }: { bundle?: string } = {}): Promise<BundleChange> {
    const body = bundle === undefined ? {} : { bundle };
    return this.#json("POST", "/admin/reload", { body, repeatable: false, timeout: 600_000 });
  }

  /** Serve the bundle that was served before the last reload. */
  rollback(): Promise<BundleChange> {
    return this.#json("POST", "/admin/rollback", { repeatable: false });
  }

  async #json<T>(method: string, path: string, asked: Asked = {}): Promise<T> {
    const response = await this.#ask(method, path, asked);
    return (await response.json()) as T;
  }

  async #ask(method: string, path: string, asked: Asked): Promise<Response> {
    const conditions = asked.headers ?? {};
    // A condition that a change itself made untrue must not be asked again.
    const repeatable = (asked.repeatable ?? true) && Object.keys(conditions).length === 0;
    const headers: Record<string, string> = { ...this.#headers, ...conditions };
    const init: RequestInit = { method, headers };
    if (asked.body !== undefined) {
      headers["Content-Type"] = "application/json";
      init.body = JSON.stringify(asked.body);
    }
    for (let attempt = 0; ; attempt++) {
      const last = attempt >= this.#retries;
      let response: Response | undefined;
      try {
        const signal = AbortSignal.timeout(asked.timeout ?? this.#timeout);
        response = await this.#fetch(this.#url + path, { ...init, signal });
      } catch (error) {
        if (last || !repeatable) throw unreached(error, this.#url);
      }
      if (response?.ok) return response;
      if (response && (last || !REFUSED.has(response.status))) throw await answered(response);
      await new Promise((resolve) => setTimeout(resolve, delay(attempt, response)));
    }
  }
}

function unreached(error: unknown, url: string): LLMEmbClientError {
  const timedOut = error instanceof DOMException && error.name === "TimeoutError";
  const kind = timedOut ? TimedOutError : ConnectionFailedError;
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return new kind(`${url}: ${cause instanceof Error ? cause.message : cause}`, { cause: error });
}

/** Milliseconds to wait after a try: as the service says, or twice as long each time. */
function delay(attempt: number, response: Response | undefined): number {
  const said = response?.headers.get("retry-after") ?? "";
  // Spread, so that those who were refused together do not come back together.
  const spread = 0.5 + Math.random() / 2;
  if (/^\d+$/.test(said)) return Math.min(LONGEST_DELAY, 1000 * (Number(said) + spread));
  return Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** attempt) * spread;
}

function wireEntry(entry: Entry): string | { attributes: Attributes } {
  return typeof entry === "string" ? entry : { attributes: entry };
}

function path(itemId: string): string {
  return `/items/${encodeURIComponent(itemId)}`;
}

function ifMatch(version: number | undefined): Record<string, string> {
  return version === undefined ? {} : { "If-Match": `"${version}"` };
}

function snakeCase(options: object): Record<string, unknown> {
  const renamed = ([name, value]: [string, unknown]): [string, unknown] => [
    name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    value,
  ];
  return Object.fromEntries(Object.entries(options).map(renamed));
}
