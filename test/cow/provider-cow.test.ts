import t from 'tap';
import { cow } from '../../src/cow/provider-cow.js';
import { scratch } from './lab.js';
import { conformance } from './provider-conformance.js';

t.setTimeout(120_000);
conformance(t, cow, scratch(t));
