// The playground: its pages, and what frames them.

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";

import { client, key, type Manifest } from "./api";
import { Item } from "./item";
import { Map } from "./map";
import { mostUsed, Problem } from "./parts";
import { Quality } from "./quality";
import { Recommend } from "./recommend";
import { typed } from "./shared";
import { signal, useAsked, useSignal } from "./signal";
import { Status } from "./status";

const PAGES = { recommend: Recommend, item: Item, map: Map, quality: Quality, status: Status };
const LOOKED_AT = 20; // items, for the attributes that the catalogue has
const TYPED_AT_FIRST = 6;
type Page = keyof typeof PAGES;

const theme = signal(localStorage.getItem("theme") ?? "");

function App() {
  const page = usePage();
  const withKey = useSignal(key);
  const bundle = useAsked(() => client().bundle(), [withKey]);
  const manifest = bundle.answer?.manifest as Manifest | undefined;
  const some = useAsked(() => mostUsed(LOOKED_AT), [withKey]);
  const fields = [...new Set(some.answer?.flatMap((item) => Object.keys(item.attributes)))];
  useEffect(() => {
    // The catalogue's own attributes are the ones to type.
    const read = fields.filter((name) => !manifest?.prompt.exclude.includes(name));
    if (manifest && !typed.value.length) {
      typed.value = read.slice(0, TYPED_AT_FIRST).map((name) => [name, ""]);
    }
  }, [manifest, some.answer]);
  const Shown = PAGES[page];
  return (
    <>
      <header>
        <h1>LLMEmb</h1>
        <nav aria-label="Pages">
          {Object.keys(PAGES).map((name) => (
            <a key={name} href={`#${name}`} aria-current={name === page ? "page" : undefined}>
              {name[0]!.toUpperCase() + name.slice(1)}
            </a>
          ))}
        </nav>
        <span class="bundle" title={manifest?.bundle}>
          {manifest && `${manifest.data.name} · ${bundle.answer?.index.items.toLocaleString()} items`}
        </span>
        <Theme />
        <a href="docs">API</a>
      </header>
      <main>
        <Problem error={bundle.error} />
        <Shown manifest={manifest} fields={fields} />
      </main>
    </>
  );
}

function Theme() {
  const chosen = useSignal(theme);
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  useEffect(() => {
    if (chosen) document.documentElement.dataset.theme = chosen;
  }, [chosen]);
  const change = () => {
    theme.value = dark ? "light" : "dark";
    localStorage.setItem("theme", theme.value);
  };
  return (
    <button class="icon" onClick={change} aria-label={dark ? "Light colours" : "Dark colours"}>
      {dark ? "☀" : "☾"}
    </button>
  );
}

function usePage(): Page {
  const named = () => {
    const name = location.hash.slice(1);
    return name in PAGES ? (name as Page) : "recommend";
  };
  const [page, turn] = useState<Page>(named);
  useEffect(() => {
    const turned = () => turn(named());
    addEventListener("hashchange", turned);
    return () => removeEventListener("hashchange", turned);
  }, []);
  return page;
}

render(<App />, document.body);
