// Build a sequence, see what comes next and why; type a cold item and watch where it lands.

import { useState } from "preact/hooks";

import { client, key, type Recommended } from "./api";
import { AttributesEditor, Badges, ItemSearch, ItemText, Panel, Problem, Slider } from "./parts";
import {
  append,
  attributesOf,
  catalogueChanged,
  entries,
  type SequenceEntry,
  sequence,
  titleOf,
  typed,
} from "./shared";
import { useAsked, useSignal } from "./signal";

export function Recommend() {
  return (
    <div class="columns three">
      <Panel title="Items">
        <ItemSearch label="Find an item" action="Add to the sequence" onChoose={append} />
      </Panel>
      <div class="stack">
        <Sequence />
        <ColdItem />
      </div>
      <Answer />
    </div>
  );
}

function Sequence() {
  const entries = useSignal(sequence);
  const remove = (place: number) => {
    sequence.value = entries.filter((_, i) => i !== place);
  };
  return (
    <Panel title="Sequence">
      {entries.length === 0 && <p class="quiet">Empty: the most popular items are recommended.</p>}
      <ol class="items sequence">
        {entries.map((entry, i) => (
          <li key={i}>
            <span class="title">{entry.title}</span>
            {!("id" in entry) && <span class="badge cold">typed</span>}
            <button class="icon" aria-label={`Remove ${entry.title}`} onClick={() => remove(i)}>
              ×
            </button>
          </li>
        ))}
      </ol>
      {entries.length > 0 && <button onClick={() => (sequence.value = [])}>Clear</button>}
    </Panel>
  );
}

function ColdItem() {
  const rows = useSignal(typed);
  const after = useSignal(sequence);
  const withKey = useSignal(key);
  const attributes = attributesOf(rows);
  const typedAny = Object.keys(attributes).length > 0;
  const found = useAsked(
    () =>
      typedAny && after.length
        ? client().explain({ attributes, sequence: entries(after) })
        : null,
    [JSON.stringify(attributes), after, withKey],
    300,
  );
  const add = () => {
    sequence.value = [...after, { attributes, title: titleOf(attributes) }];
  };
  return (
    <Panel title="An item that the catalogue lacks">
      <AttributesEditor />
      <button disabled={!typedAny} onClick={add}>
        Add to the sequence
      </button>
      <Problem error={found.error} />
      {typedAny && !after.length && <p class="quiet">Give a sequence to see where it would stand.</p>}
      {found.answer && (
        <div aria-live="polite">
          <p>
            After this sequence it stands at <strong>rank {found.answer.rank.toLocaleString()}</strong>.
          </p>
          <table>
            <thead>
              <tr>
                <th>without</th>
                <th class="number">rank</th>
                <th class="number">score</th>
              </tr>
            </thead>
            <tbody>
              {found.answer.without.map((one) => (
                <tr key={one.attribute}>
                  <td>{one.attribute}</td>
                  <td class="number">{one.rank.toLocaleString()}</td>
                  <td class="number">{signed(one.change)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Panel>
  );
}

function Answer() {
  const [k, setK] = useState(10);
  const [tail, setTail] = useState(0);
  const [fresh, setFresh] = useState(0);
  const [diversity, setDiversity] = useState(0);
  const [minCold, setMinCold] = useState(0);
  const after = useSignal(sequence);
  const changed = useSignal(catalogueChanged);
  const withKey = useSignal(key);
  const found = useAsked(
    () =>
      client().recommend({
        sequence: entries(after),
        k,
        minCold: Math.min(minCold, k),
        tailBoost: tail,
        freshnessBoost: fresh,
        diversity,
        explain: after.length > 0,
        details: true,
      }),
    [after, k, tail, fresh, diversity, minCold, changed, withKey],
    100,
  );
  const best = found.answer?.items[0]?.score ?? 1;
  const worst = found.answer?.items.at(-1)?.score ?? 0;
  return (
    <Panel title="Recommended next" class="answer">
      <details class="levers">
        <summary>Levers</summary>
        <Slider label="how many" hint="k" max={50} step={1} value={k} onChange={(n) => setK(Math.max(1, n))} />
        <Slider label="tail boost" hint="lifts items with few interactions" max={5} step={0.1} value={tail} onChange={setTail} />
        <Slider label="freshness boost" hint="lifts items put lately" max={5} step={0.1} value={fresh} onChange={setFresh} />
        <Slider label="diversity" hint="prefers items unlike those above" max={1} step={0.05} value={diversity} onChange={setDiversity} />
        <Slider label="cold items, at least" hint="min_cold" max={10} step={1} value={minCold} onChange={setMinCold} />
      </details>
      <Problem error={found.error} />
      <ol class="items recommended" aria-busy={found.busy}>
        {found.answer?.items.map((one) => (
          <RecommendedRow
            key={one.id}
            one={one}
            share={(one.score - worst) / (best - worst || 1)}
            after={after}
          />
        ))}
      </ol>
      {found.answer && (
        <p class="quiet">
          {found.took?.toFixed(0)} ms
          {found.answer.unknown.length > 0 && ` · not in the catalogue: ${found.answer.unknown.join(", ")}`}
        </p>
      )}
    </Panel>
  );
}

function RecommendedRow(props: { one: Recommended; share: number; after: SequenceEntry[] }) {
  const { one, share, after } = props;
  if (!one.item) return null;
  return (
    <li>
      <details>
        <summary>
          <span class="rank">{one.rank}</span>
          <ItemText id={one.id} attributes={one.item.attributes} />
          <Badges item={one.item} />
        </summary>
        <meter min={0} max={1} value={share} aria-label={`score ${one.score.toFixed(3)}`} />
        <p class="why">
          score {one.score.toFixed(3)}
          {one.source === "popular" && " (popularity: the sequence holds no known item)"}
        </p>
        {one.because && one.because.length > 0 && (
          <ul class="why">
            {one.because.map((driver) => (
              <li key={driver.place}>
                {signed(driver.change)} from {after[driver.place]?.title ?? driver.id}
              </li>
            ))}
          </ul>
        )}
        <button onClick={() => one.item && append(one.item)}>Add to the sequence</button>
      </details>
    </li>
  );
}

function signed(change: number): string {
  return `${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(3)}`;
}
