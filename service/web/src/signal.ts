// A value that components follow; what pages share.

import { useEffect, useState } from "preact/hooks";

export interface Signal<T> {
  value: T;
  follow(changed: () => void): () => void;
}

/** Return a value that tells its followers when it is set. */
export function signal<T>(first: T): Signal<T> {
  let value = first;
  const followers = new Set<() => void>();
  return {
    get value() {
      return value;
    },
    set value(next: T) {
      value = next;
      for (const follower of followers) follower();
    },
    follow(changed) {
      followers.add(changed);
      return () => followers.delete(changed);
    },
  };
}

/** Return a signal's value, and draw the component again when it changes. */
export function useSignal<T>(of: Signal<T>): T {
  const [, draw] = useState({});
  useEffect(() => of.follow(() => draw({})), [of]);
  return of.value;
}

/** What became of something asked: nothing yet, an answer, or an error. */
export interface Asked<T> {
  answer?: T;
  error?: unknown;
  /** Milliseconds that the last answer took. */
  took?: number;
  busy: boolean;
}

/**
 * Ask again whenever `inputs` change, at most once in `wait` milliseconds; the answer before stays until the
 * next one, and one that came too late is dropped. `ask` returns null where there is nothing to ask.
 */
export function useAsked<T>(ask: () => Promise<T> | null, inputs: unknown[], wait = 0): Asked<T> {
  const [asked, set] = useState<Asked<T>>({ busy: false });
  useEffect(() => {
    let dropped = false;
    const timer = setTimeout(async () => {
      const began = performance.now();
      const asking = ask();
      if (!asking) {
        set({ busy: false });
        return;
      }
      set((before) => ({ ...before, busy: true }));
      try {
        const answer = await asking;
        if (!dropped) set({ answer, busy: false, took: performance.now() - began });
      } catch (error) {
        if (!dropped) set((before) => ({ ...before, error, busy: false }));
      }
    }, wait);
    return () => {
      dropped = true;
      clearTimeout(timer);
    };
  }, inputs);
  return asked;
}
