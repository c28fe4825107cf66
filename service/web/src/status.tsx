// What the service does now, from its metrics.

import { useEffect, useState } from "preact/hooks";

import { client, get, key, type Ready } from "./api";
import { Chart } from "./chart";
import { Facts, Panel, Problem } from "./parts";
import { parsed, quantile, type Sample, sum } from "./prometheus";
import { useSignal } from "./signal";

const EVERY = 2000;
const KEPT = 150; // looks: five minutes
const WORK = { route: /^(?!\/(metrics|health)|$)/ };

interface Look {
  at: number;
  perSecond: number;
  p50: number;
  p99: number;
}

interface State {
  looks: Look[];
  samples: Sample[];
  ready?: Ready;
  error?: unknown;
}

export function Status() {
  const [state, set] = useState<State>({ looks: [], samples: [] });
  const withKey = useSignal(key);
  useEffect(() => {
    let ended = false;
    let before: { at: number; samples: Sample[] } | undefined;
    const look = async () => {
      try {
        const samples = parsed(await (await get("/metrics")).text());
        const ready = await client().ready();
        const at = Date.now() / 1000;
        const last = before;
        before = { at, samples };
        if (ended) return;
        set(({ looks }) => ({
          samples,
          ready,
          looks: last ? [...looks, looked(last, { at, samples })].slice(-KEPT) : looks,
        }));
      } catch (error) {
        if (!ended) set((state) => ({ ...state, error }));
      }
    };
    look();
    const timer = setInterval(look, EVERY);
    return () => {
      ended = true;
      clearInterval(timer);
    };
  }, [withKey]);
  const { looks, samples, ready } = state;
  const at = looks.map((one) => one.at);
  const asked = sum(samples, "llmemb_asked_vectors_total");
  const computed = sum(samples, "llmemb_asked_vectors_total", { source: "model" });
  const replicas = sum(samples, "llmemb_replicas");
  const now = looks.at(-1);
  const facts: [string, string][] = [
    ["Items", sum(samples, "llmemb_catalogue_items").toLocaleString()],
    ["Requests a second", now ? now.perSecond.toFixed(1) : "…"],
    ["Half take less than", milliseconds(now?.p50)],
    ["99% take less than", milliseconds(now?.p99)],
    ["Vectors from the cache", asked ? `${(100 * (1 - computed / asked)).toFixed(1)}%` : "none asked yet"],
    ["Replicas", replicas ? replicas.toLocaleString() : "not known: Redis is away"],
    ["Memory", `${(sum(samples, "process_resident_memory_bytes") / 2 ** 20).toFixed(0)} MiB`],
    ["Cache", ready?.cache ?? "…"],
    ["Catalogue", ready?.catalogue ?? "…"],
  ];
  return (
    <div class="columns two">
      <Panel title="Now">
        <Problem error={state.error} />
        <Facts facts={facts} large />
        <p class="quiet">Of this replica, every two seconds. Prometheus has all of them: see docker/observability.</p>
      </Panel>
      <Panel title="The last five minutes">
        <Chart
          title="Requests a second"
          time
          x={at}
          curves={[{ label: "requests", values: looks.map((one) => one.perSecond) }]}
        />
        <Chart
          title="Milliseconds"
          time
          x={at}
          curves={[
            { label: "half", values: looks.map((one) => finite(one.p50)) },
            { label: "99%", values: looks.map((one) => finite(one.p99)) },
          ]}
        />
      </Panel>
    </div>
  );
}

function looked(before: { at: number; samples: Sample[] }, now: { at: number; samples: Sample[] }): Look {
  const seconds = now.at - before.at;
  const count = (of: Sample[]) => sum(of, "llmemb_requests_total", WORK);
  const took = (q: number) =>
    1000 * quantile(before.samples, now.samples, "llmemb_request_seconds", WORK, q);
  return {
    at: now.at,
    perSecond: (count(now.samples) - count(before.samples)) / seconds,
    p50: took(0.5),
    p99: took(0.99),
  };
}

function milliseconds(value: number | undefined): string {
  return value === undefined || Number.isNaN(value) ? "no request" : `${value.toPrecision(2)} ms`;
}

function finite(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}
