// Plays scenarios, and prints what came of each as a line of JSON: the counterpart of play.py.
import OpenAI from 'openai';

const scenarios = [];

export function scenario(name, act) {
  scenarios.push({ name, act });
}

export async function play() {
  const named = process.argv.slice(2);
  for (const [number, { name, act }] of scenarios.entries()) {
    if (named.length && !named.includes(name)) continue;
    const apiKey = process.env.OPENAI_API_KEY + (process.env.PROJECTS ? `-${number}` : '');
    const begun = performance.now();
    let error = null;
    try {
      await act(new OpenAI({ apiKey }));
    } catch (caught) {
      error = caught.stack ?? String(caught);
    }
    const seconds = Math.round(performance.now() - begun) / 1000;
    console.log(JSON.stringify({ scenario: name, client: 'npm', seconds, error }));
  }
}

export async function collect(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}
