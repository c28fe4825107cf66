// How well the bundle recommends, next to what it is compared with; all from its manifest.

import type { Manifest } from "./api";
import { Chart } from "./chart";
import { Facts, Panel } from "./parts";

type Metrics = Record<string, number>;
interface Report {
  full: Record<string, Metrics>;
  by_popularity?: Record<string, Metrics>;
  "coverage@10": number;
  n_users: number;
}

const COLUMNS = [
  ["all", "HR@10"],
  ["all", "NDCG@10"],
  ["tail", "HR@10"],
  ["tail", "NDCG@10"],
  ["head", "HR@10"],
  ["head", "NDCG@10"],
] as const;

export function Quality({ manifest }: { manifest: Manifest | undefined }) {
  if (!manifest) return null;
  const reports = Object.entries(manifest.metrics) as [string, Report][];
  reports.sort((a, b) => a[1].full.all!["NDCG@10"]! - b[1].full.all!["NDCG@10"]!);
  if (!reports.length) {
    return (
      <Panel title="Quality">
        <p class="quiet">This bundle was written without metrics.</p>
      </Panel>
    );
  }
  return (
    <div class="columns two">
      <Panel title="Test metrics">
        <Table reports={reports} />
        <p class="quiet">
          Leave-one-out, full ranking, {reports[0]![1].n_users.toLocaleString()} users. Tail: the 80% of items
          with the fewest training interactions. Coverage: share of the catalogue in anyone's ten.
        </p>
      </Panel>
      <ByPopularity reports={reports} />
      <Curves manifest={manifest} />
      <BundleFacts manifest={manifest} />
    </div>
  );
}

function Table({ reports }: { reports: [string, Report][] }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Test metrics">
      <table>
        <thead>
          <tr>
            <td />
            {COLUMNS.map(([group, metric]) => (
              <th class="number" key={group + metric}>
                {metric} {group}
              </th>
            ))}
            <th class="number">coverage</th>
          </tr>
        </thead>
        <tbody>
          {reports.map(([name, report]) => (
            <tr key={name} class={name === "llmemb" ? "ours" : ""}>
              <th scope="row">{name}</th>
              {COLUMNS.map(([group, metric]) => (
                <td class="number" key={group + metric}>
                  {report.full[group]![metric]!.toFixed(4)}
                </td>
              ))}
              <td class="number">{(100 * report["coverage@10"]).toFixed(0)}%</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** NDCG@10 by how often the target was used in training: ours next to the best row without an LLM. */
function ByPopularity({ reports }: { reports: [string, Report][] }) {
  const ours = reports.find(([name]) => name === "llmemb")?.[1].by_popularity;
  const [otherName, other] = reports.filter(([name]) => name !== "llmemb").at(-1) ?? [];
  if (!ours || !other?.by_popularity) return null;
  const buckets = Object.keys(ours).filter((bucket) => ours[bucket]!.n);
  buckets.sort((a, b) => parseInt(a) - parseInt(b));
  const value = (of: Record<string, Metrics>, bucket: string) => of[bucket]?.["NDCG@10"] ?? 0;
  const most = Math.max(...buckets.flatMap((one) => [value(ours, one), value(other.by_popularity!, one)]), 1e-9);
  return (
    <Panel title="By popularity of the target">
      <table class="bars">
        <thead>
          <tr>
            <th>interactions</th>
            <th>NDCG@10</th>
          </tr>
        </thead>
        <tbody>
          {buckets.map((bucket) => (
            <tr key={bucket}>
              <th scope="row">{bucket}</th>
              <td>
                <Bar kind="ours" share={value(ours, bucket) / most} text={value(ours, bucket).toFixed(3)} />
                <Bar
                  kind="other"
                  share={value(other.by_popularity!, bucket) / most}
                  text={value(other.by_popularity!, bucket).toFixed(3)}
                />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      <p class="quiet">
        <span class="key ours" /> llmemb <span class="key other" /> {otherName}
      </p>
    </Panel>
  );
}

function Bar({ kind, share, text }: { kind: string; share: number; text: string }) {
  return (
    <svg class="bar" viewBox="0 0 120 8" role="img" aria-label={`${kind === "ours" ? "llmemb" : "the other"}: ${text}`}>
      <rect class={kind} width={Math.max(0.5, 95 * share)} height="7" rx="1" />
      <text x={95 * share + 3} y="6.5">
        {text}
      </text>
    </svg>
  );
}

function Curves({ manifest }: { manifest: Manifest }) {
  const { scft, ...fitted } = manifest.history;
  const stages = Object.entries(fitted).filter(([, epochs]) => epochs.length > 0);
  if (!stages.length) return null;
  const x = Array.from({ length: Math.max(...stages.map(([, epochs]) => epochs.length)) }, (_, epoch) => epoch);
  const curves = (what: string) =>
    stages.map(([label, epochs]) => ({ label, values: x.map((epoch) => epochs[epoch]?.[what] ?? null) }));
  return (
    <Panel title="Training">
      <Chart title="NDCG@10 on validation, by epoch" x={x} curves={curves("ndcg")} digits={4} />
      <Chart title="Loss, by epoch" x={x} curves={curves("loss")} digits={3} />
      {scft && scft.length > 0 && (
        <Chart
          title="Loss of fine-tuning the LLM, by step"
          x={scft.map((part) => part.step!)}
          curves={[{ label: "scft", values: scft.map((part) => part.loss!) }]}
          digits={3}
        />
      )}
    </Panel>
  );
}

function BundleFacts({ manifest }: { manifest: Manifest }) {
  const { data, srs } = manifest;
  const facts: [string, string][] = [
    ["bundle", manifest.bundle],
    ["data", `${data.name}: ${data.items.toLocaleString()} items, ${data.users.toLocaleString()} users, ${data.interactions.toLocaleString()} interactions`],
    ["LLM", `${manifest.base_model.source}, ${manifest.llm_dimensions} dimensions`],
    ["backbone", `${srs.name}, width ${srs.width}, ${srs.blocks} blocks, at most ${srs.max_length} items`],
    ["trained with", Object.entries(manifest.libraries).map((one) => one.join(" ")).join(", ")],
  ];
  return (
    <Panel title="Bundle">
      <Facts facts={facts} />
    </Panel>
  );
}
