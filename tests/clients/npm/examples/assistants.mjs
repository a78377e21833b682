// After the SDK's example `assistants`: a tutor answers, and the program polls for it.
import OpenAI from 'openai';

const openai = new OpenAI();

const tutor = await openai.beta.assistants.create({
  model: 'gpt-4o',
  name: 'Math Tutor',
  instructions: 'You help people with mathematics.',
});
console.log(`assistant ${tutor.id}`);

const thread = await openai.beta.threads.create({
  messages: [{ role: 'user', content: 'What is x in `5x + 2 = 17`?' }],
});
console.log(`thread ${thread.id}`);

const run = await openai.beta.threads.runs.createAndPoll(thread.id, {
  assistant_id: tutor.id,
  additional_instructions: 'Call the user Jane.',
});
console.log(`run ${run.status}`);

if (run.status === 'completed') {
  const page = await openai.beta.threads.messages.list(thread.id);
  for (const message of page.getPaginatedItems()) console.log(JSON.stringify(message));
}
